"""What is in deployments/ fits what it deploys."""

from __future__ import annotations

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

    for deployment in read("prefect.yaml")["deployments"]:
        path, name = deployment["entrypoint"].split(":")
        flow = load_flow_from_entrypoint(f"{ROOT / path}:{name}")
        required = dict.fromkeys(flow.parameters.required or [], "x")
        flow.validate_parameters({**required, **deployment.get("parameters", {})})


def test_containers_run_the_versions_that_the_suite_runs() -> None:
    """The images are of the Prefect that the constraints name, and run what there is."""
    pinned = (ROOT / ".ci" / "constraints.txt").read_text()
    services = read("docker-compose.yaml")["services"]
    version = services["server"]["image"].partition(":")[2].partition("-")[0]
    assert f"prefect=={version}\n" in pinned
    for name in services:
        for other in services[name].get("depends_on", {}):
            assert other in services, f"{name} depends on {other}"
    assert "batchata_prefect.webhook:application" in services["webhook"]["command"]
