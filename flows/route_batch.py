"""Routing a large file of queries: shards that the workers of a deployment take.

Input, output and release lie on storage that all workers share. The output has the bytes that
`serac route` in one process gives.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.steps import log_errors_plainly, say
from flows.workers import await_all, online_workers, start_on_worker
from serac_core.errors import SeracError
from serac_core.scope.batch_routing import CHUNK
from serac_core.scope.shards import Shard, join_shards, plan_shards, route_shard

SHARD_DEPLOYMENT = "route-shard/route-shard"


@flow(name="route-batch", persist_result=False)
def route_batch(
    release: str,
    source: str,
    output: str,
    deployment: str = SHARD_DEPLOYMENT,
    shards: int = 0,
    variant: str = "fp32",
    provider: str = "cpu",
    threads: int | None = None,
) -> State[str]:
    """Route a file of queries on the workers of a deployment.

    Killed and started again with the same arguments, what was decided stays decided.

    Parameters
    ----------
    release:
        The release directory.
    source, output:
        JSON lines of queries, and of decisions.
    shards:
        Parts to split the file into; 0: as many as the deployment's pool has workers online.
    threads:
        Of each worker's encoder; the bytes of the output depend on it as on the variant.

    Returns
    -------
    State
        Completed with the output's path; Failed with the :class:`SeracError`.
    """
    log_errors_plainly()
    try:
        parts = plan_shards(
            Path(source).absolute(), Path(output).absolute(), shards or online_workers(deployment)
        )
        say(f"{parts[-1].after if parts else 0} queries in {len(parts)} shards")
        how = {"variant": variant, "provider": provider, "threads": threads}
        done = ask_worker.map(
            parts,
            deployment=unmapped(deployment),
            parameters=unmapped(
                {
                    "release": str(Path(release).absolute()),
                    "source": str(Path(source).absolute()),
                    **how,
                }
            ),
        )
        done.result()
        join_shards(parts, Path(output).absolute())
    except SeracError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"{parts[-1].after if parts else 0} decisions", data=output)


@task(name="route shard", cache_policy=NO_CACHE, persist_result=False, retries=2)
def ask_worker(part: Shard, deployment: str, parameters: dict[str, object]) -> None:
    """Have a worker route one shard; a run that ends otherwise is asked for again."""
    what = f"queries {part.first + 1} to {part.after}"
    shard = {"first": part.first, "after": part.after, "output": str(part.output)}
    run = start_on_worker(deployment, {**parameters, **shard}, what)
    await_all({what: run})


@flow(name="route-shard", persist_result=False)
def route_one_shard(
    release: str,
    source: str,
    output: str,
    first: int,
    after: int,
    variant: str = "fp32",
    provider: str = "cpu",
    threads: int | None = None,
) -> State[int]:
    """Route the queries from `first` (from 0, a multiple of the chunk) up to but without `after`.

    Returns
    -------
    State
        Completed with the number of decisions; Failed with the :class:`SeracError`.
    """
    log_errors_plainly()
    if first % CHUNK:
        return Failed(message=f"first: {first} is no multiple of {CHUNK}")
    try:
        made = route_shard(
            Path(release),
            Path(source),
            Shard(first, after, Path(output)),
            variant=variant,
            provider=provider,
            threads=threads,
            say=say,
        )
    except SeracError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"{made.queries} decisions", data=made.queries)
