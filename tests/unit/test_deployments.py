"""What is in deployments/ fits what it deploys."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOYMENTS / name).read_text())


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "automations").glob("*.yaml")), ids=str)
def test_automations_are_as_prefect_reads_them(path: Path) -> None:
    """Each is a valid automation on an event that the package sends."""
    automation = AutomationCore.model_validate(yaml.safe_load(path.read_text()))
    sources = (ROOT / "batchata_prefect" / "views" / "events.py").read_text()
    sources += (ROOT / "batchata_prefect" / "webhook.py").read_text()
    for event in automation.trigger.expect:
        assert event.removeprefix("batchata.") in sources


def test_parameters_of_the_deployments_are_the_flows() -> None:
    """A parameter that was renamed is renamed in the deployments too."""
    from prefect.flows import load_flow_from_entrypoint

    assert read("prefect.yaml")["pull"] == []
    for deployment in read("prefect.yaml")["deployments"]:
        assert deployment["entrypoint"].startswith("batchata_prefect.deployed.")
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        required = dict.fromkeys(flow.parameters.required or [], "x")
        flow.validate_parameters({**required, **deployment.get("parameters", {})})


SERVICES = read("docker-compose.yaml")["services"]
STAYING = set(SERVICES) - {"migrate", "deploy"}
MUST = {
    "POSTGRES_PASSWORD": {"postgres", "migrate", "server", "services"},
    "REDIS_PASSWORD": {"redis", "server", "services"},
    "PREFECT_AUTH_STRING": {"server", "worker", "webhook", "deploy"},
    "ANTHROPIC_API_KEY": {"worker"},
    "OPENAI_API_KEY": {"worker"},
    "OPENAI_WEBHOOK_SECRET": {"webhook"},
}


def test_containers_run_the_versions_that_the_suite_runs() -> None:
    """The images are of the Prefect that the constraints name, and run what there is."""
    pinned = (ROOT / ".ci" / "constraints.txt").read_text()
    version = SERVICES["server"]["image"].partition(":")[2].partition("-")[0]
    assert f"prefect=={version}\n" in pinned
    built = SERVICES["worker"]["build"]["dockerfile_inline"]
    assert f"FROM {SERVICES['server']['image']}\n" in built
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            assert other in SERVICES, f"{name} depends on {other}"
    assert "batchata_prefect.webhook:application" in SERVICES["webhook"]["command"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_what_it_needs_and_no_more(name: str) -> None:
    """It runs as nobody in particular, from a pinned image, and listens to this machine alone."""
    service = SERVICES[name]
    assert service["user"] not in {"root", "0", "0:0"}
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(each.startswith("127.0.0.1:") for each in service.get("ports", ()))
    if "build" not in service:
        version = service["image"].partition(":")[2]
        assert re.match(r"\d+\.\d+", version), "an image of a moving version"
    assert "env_file" not in service
    assert ("healthcheck" in service) == (name in STAYING)


@pytest.mark.parametrize("key", MUST)
def test_a_key_is_where_it_is_needed(key: str) -> None:
    """And nowhere else; those without which nothing would be safe have to be set."""
    known = {name for name, service in SERVICES.items() if key in json.dumps(service)}
    assert known == MUST[key]
    example = (DEPLOYMENTS / ".env.example").read_text()
    assert f"{key}=" in example
    text = (DEPLOYMENTS / "docker-compose.yaml").read_text()
    is_required = f"\n{key}=\n" in example
    assert is_required == (f"${{{key}:?" in text)
    assert "prefect:prefect@" not in text


def test_the_image_holds_nothing_but_the_package() -> None:
    """All else is left out of the build's context, keys first; what it copies is in it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert "**/.env*" in rules
    built = SERVICES["worker"]["build"]["dockerfile_inline"]
    for line in re.findall(r"^COPY (.+) \S+$", built, re.MULTILINE):
        for name in line.split():
            assert f"!{name}" in rules
            assert (ROOT / name).exists()


def test_docker_takes_the_file(tmp_path: Path) -> None:
    """With what must be set, and not without it; where docker compose is installed."""
    compose = ["docker", "compose", "--project-directory", str(DEPLOYMENTS)]
    compose += ["--file", str(DEPLOYMENTS / "docker-compose.yaml")]
    if shutil.which("docker") is None or subprocess.run([*compose, "version"]).returncode:
        pytest.skip("docker compose is not installed")
    nothing = tmp_path / "env"
    nothing.touch()
    config = [*compose, "--env-file", str(nothing), "--profile", "*", "config", "--quiet"]
    told = dict.fromkeys(("POSTGRES_PASSWORD", "REDIS_PASSWORD", "PREFECT_AUTH_STRING"), "abc")
    subprocess.run(config, env={**os.environ, **told}, check=True)
    for key in told:
        without = {**os.environ, **told, key: ""}
        refused = subprocess.run(config, env=without, capture_output=True, text=True)
        assert refused.returncode != 0
        assert key in refused.stderr


def test_every_action_is_pinned_and_publishing_may_do_no_more_than_that() -> None:
    """By the whole hash of a commit: a tag can be moved to other code."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (.+)", path.read_text())
        assert used
        for each in used:
            pinned = r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
            assert re.fullmatch(pinned, each), f"{path.name}: {each}"
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            allowed = {"publish": {"id-token": "write"}, "announce": {"contents": "write"}}
            assert job.get("permissions") == allowed.get(name), name
