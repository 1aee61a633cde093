"""The files in deploy/, each by the strictest judge of its kind; nothing of them runs here."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from light_project import ROOT, make_project, sh

from flows.checkouts import NoCheckout, NowhereToPublish, take_checkout, take_folder
from flows.deployments import PREFECT_FILE, InvalidDeployments, read_deployments
from flows.pools import POOLS, job_template
from serac_core.workspace.commands import GitFailed

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SCRIPTS = Path(sys.executable).parent


def judge(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_container_files_pass_hadolint() -> None:
    files = sorted(DEPLOY.glob("*.Dockerfile"))
    assert len(files) == 2
    judge(SCRIPTS / "hadolint", "--failure-threshold", "style", *files)
    for file in files:
        users = re.findall(r"^USER (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert users[-1:] == ["10001"]


def test_compose_file_follows_its_specification() -> None:
    file = DEPLOY / "compose.yaml"
    judge(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    text = file.read_text(encoding="utf-8")
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    services = documents(file)[0]["services"]
    assert all(
        "password" not in str(service).lower() or "${" in str(service) for service in services
    )
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        build = service.get("build")
        assert not build or (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "deploy/.env"], cwd=ROOT)
    assert ignored.returncode == 0


@pytest.mark.parametrize(
    "file", [file for file in MANIFESTS if file.name != "kustomization.yaml"], ids=lambda f: f.name
)
def test_kubernetes_manifest_is_valid(file: Path) -> None:
    import kubernetes_validate

    for document in documents(file):
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_kustomization_names_what_is_there() -> None:
    kustomization = documents(DEPLOY / "kubernetes/kustomization.yaml")[0]
    others = {file.name for file in MANIFESTS} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == others
    every = [document for name in others for document in documents(DEPLOY / "kubernetes" / name)]
    names = {(document["kind"], document["metadata"]["name"]) for document in every}
    assert len(names) == len(every)
    assert "Secret" not in {kind for kind, _ in names}
    for document in every:
        if document["kind"] not in ("Deployment", "StatefulSet"):
            continue
        spec = document["spec"]["template"]["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in names
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["resources"]["limits"]
            for source in container["envFrom"]:
                reference = source.get("configMapRef")
                assert not reference or ("ConfigMap", reference["name"]) in names
            declared = {volume["name"] for volume in spec["volumes"]}
            declared |= {
                claim["metadata"]["name"]
                for claim in document["spec"].get("volumeClaimTemplates", [])
            }
            assert {mount["name"] for mount in container["volumeMounts"]} == declared


def test_prefect_file_is_read_by_prefects_own_loader() -> None:
    from prefect.cli.deploy._config import _load_deploy_configs_and_actions
    from rich.console import Console

    configs, actions = _load_deploy_configs_and_actions(PREFECT_FILE, console=Console())
    ours = {deployment.name: deployment for deployment in read_deployments()}
    assert [config["name"] for config in configs] == list(ours)
    for config in configs:
        deployment = ours[config["name"]]
        assert config["entrypoint"] == deployment.entrypoint
        assert config["work_pool"]["name"] == deployment.work_pool_name in POOLS
        module, function = config["entrypoint"].rsplit(".", 1)
        flow = getattr(importlib.import_module(module), function)
        assert flow.name == deployment.flow_name
        assert set(config.get("parameters", {})) <= set(flow.parameters.properties)
    assert actions["pull"]
    retrain = ours["retrain"]
    assert retrain.concurrency_limit == 1
    assert str(retrain.concurrency_options.collision_strategy.value) == "CANCEL_NEW"


def test_prefects_own_deploy_command_makes_the_same(prefect_server: str) -> None:
    import httpx

    judge(sys.executable, "-P", "-m", "serac_core", "deploy")
    judge(
        *(sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"),
        *("--prefect-file", PREFECT_FILE),
    )
    found = httpx.get(f"{prefect_server}/deployments/name/retrain/retrain").json()
    assert found["entrypoint"] == "flows.retrain.retrain"
    assert found["pull_steps"] == yaml.safe_load(PREFECT_FILE.read_text())["pull"]
    assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_schedule_that_prefect_refuses_is_named() -> None:
    [cron] = read_deployments(cron="*/5 * * * *", timezone="Europe/Berlin")[0].schedules
    assert (cron.schedule.cron, cron.schedule.timezone) == ("*/5 * * * *", "Europe/Berlin")
    assert not read_deployments(cron="")[0].schedules
    with pytest.raises(InvalidDeployments, match="99"):
        read_deployments(cron="99 * * * *")
    with pytest.raises(InvalidDeployments, match="Mars"):
        read_deployments(timezone="Mars/Olympus")


@pytest.mark.parametrize("pool", POOLS)
def test_docker_template_starts_a_container(pool: str) -> None:
    """As docker-py reads it; a GPU for the pool that trains."""
    from docker.types import HostConfig

    template = job_template(pool, "docker")
    create = template["variables"]["properties"]["container_create_kwargs"]["default"]
    options = {key: value for key, value in create.items() if key != "name"}
    config = HostConfig(version="1.44", **options)
    gpus = config.get("DeviceRequests") or []
    assert [request["Driver"] for request in gpus] == (["nvidia"] if "gpu" in pool else [])
    _placeholders_have_variables(template)


@pytest.mark.parametrize("pool", POOLS)
def test_kubernetes_template_makes_a_valid_job(pool: str) -> None:
    import kubernetes_validate

    template = job_template(pool, "kubernetes")
    _placeholders_have_variables(template)
    values = {
        name: variable.get("default", "x")
        for name, variable in template["variables"]["properties"].items()
    } | {"labels": {}, "env": [{"name": "A", "value": "b"}], "command": ["serac"], "name": "run"}
    manifest = _filled(template["job_configuration"]["job_manifest"], values)
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if "gpu" in pool else None)


def _placeholders_have_variables(template: dict[str, Any]) -> None:
    asked = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert asked == set(template["variables"]["properties"])


def _filled(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    found = re.fullmatch(r"{{ (\w+) }}", value) if isinstance(value, str) else None
    if found:
        return values[found[1]]
    return (
        re.sub(r"{{ (\w+) }}", lambda m: str(values[m[1]]), value)
        if isinstance(value, str)
        else value
    )


def test_worker_of_a_repository_clones_it_and_follows_its_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = make_project(tmp_path / "project")
    folder = tmp_path / "worker" / "checkout"
    with pytest.raises(NoCheckout, match="SERAC_CHECKOUT"):
        take_checkout()
    with pytest.raises(GitFailed) as unreachable:
        take_checkout(str(folder), str(tmp_path / "nowhere"))
    assert "SERAC_REPOSITORY" in unreachable.value.remedy
    with pytest.raises(NowhereToPublish, match="publish_to is empty"):
        take_checkout(str(folder), str(project))
    params = project / "params.yaml"
    params.write_text(params.read_text() + f"registry:\n  publish_to: {project}\n")
    sh(project, "git", "commit", "--quiet", "--all", "-m", "publish")
    assert take_checkout(str(folder), str(project)) == {"directory": str(folder)}
    assert Path.cwd() == folder
    assert sh(folder, "git", "rev-parse", "HEAD") == sh(project, "git", "rev-parse", "HEAD")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Path(take_folder()["directory"]).is_dir()
