"""Git and DVC under a flow: own clone per run, stages reproduced there, dead runs cleared up.

`runs` (a run's folder), `inputs` (what is uncommitted), `candidate` (the clone),
`pipeline` (DVC), `reports` (what a failed run leaves), `commands` (git and dvc).
"""
