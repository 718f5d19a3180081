"""Takes the screenshots of the documentation: a run in the Prefect UI, its batches, its report.

    python .docs/screenshots.py --out .docs/img

Needs chromium. Starts a server, a sandbox and a run of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import runpy
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """A tab of a headless Chromium, over its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send(
            json.dumps({"id": self._number, "method": method, "params": params})
        )
        while True:
            answer = json.loads(await self._socket.recv())
            if answer.get("id") == self._number:
                return answer.get("result", {})

    async def run(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        return answer.get("result", {}).get("value")

    async def open(self, url: str, text: str) -> None:
        """Open a page and wait until a text stands on it."""
        await self.call("Page.navigate", url=url)
        for _ in range(200):
            await asyncio.sleep(0.2)
            if text in str(await self.run("document.body.innerText")):
                await asyncio.sleep(2)  # it fades in
                return
        shown = str(await self.run("document.body.innerText"))[:500]
        raise RuntimeError(f"{url} does not show {text!r}, but: {shown}")

    async def click(self, text: str) -> None:
        """Click on the element with exactly this text."""
        await self.run(
            "[...document.querySelectorAll('a,button,li,span,div')].filter(e => "
            f"e.innerText && e.innerText.trim() === {json.dumps(text)}).at(-1)?.click()"
        )
        await asyncio.sleep(2)

    async def shoot(self, path: Path, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await asyncio.sleep(1)
        picture = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


SCRIPT = """
from batchata_prefect import Batch
batch = Batch({folder!r}, items_per_batch=250).add_cost_limit(usd=5)
for n in range({jobs}):
    model = ('claude-sonnet-5-5', 'claude-haiku-5-5', 'gpt-6-luna')[n % 3]
    mark = '[[sandbox:truncated]]' if n % 1500 < {cut} else ''
    batch.add_job(prompt=f'Sum up invoice {{n}} {{mark}}', model=model, max_tokens=200,
                  tags=[('north', 'south')[n % 2]], id=f'invoice-{{n}}')
print(batch.run().flow_run_id)
"""


def make_run(stack: Any, sandbox: Any, folder: Path, jobs: int, cut: int) -> dict[str, Any]:
    """A run whose first jobs fail: the ids of its flow run and artifacts."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(folder=str(folder), jobs=jobs, cut=cut)],
        env={**stack.environment, **sandbox.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    flow_run_id = done.stdout.strip().splitlines()[-1]
    api = stack.environment["PREFECT_API_URL"]
    asked = json.dumps({"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}).encode()
    request = urllib.request.Request(
        f"{api}/artifacts/filter", asked, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        found = {each["type"]: each["id"] for each in json.load(reply)}
    return {"run": flow_run_id, **found}


async def shoot(
    stack: Any, ids: dict[str, Any], failed: dict[str, Any], out: Path, home: Path
) -> None:
    """Look at two runs in a browser, and keep what is seen."""
    browser = subprocess.Popen(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--hide-scrollbars", "--remote-debugging-port=9333"),
            *("--window-size=1400,900", f"--user-data-dir={home / 'browser'}", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        targets: list[Any] = []
        for _ in range(100):
            try:
                with urllib.request.urlopen("http://127.0.0.1:9333/json") as reply:
                    targets = [t for t in json.load(reply) if t["type"] == "page"]
                break
            except OSError:
                await asyncio.sleep(0.2)
        async with connect(targets[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            await page.call("Page.enable")
            await page.open(f"{stack.url}/runs/flow-run/{ids['run']}", "invoices")
            await page.click("Artifacts")
            await page.shoot(out / "run.png", 1200, 820)
            await page.open(f"{stack.url}/artifacts/artifact/{ids['table']}", "claude-sonnet-5-5")
            await page.shoot(out / "batches.png", 1500, 620)
            await page.open(f"{stack.url}/artifacts/artifact/{ids['markdown']}", "answered")
            await page.shoot(out / "report.png", 1060, 880)
            await page.open(f"{stack.url}/runs/flow-run/{failed['run']}", "overdue")
            await page.shoot(out / "failed.png", 1200, 820)
            await page.open(f"{stack.url}/runs?tag=provider:anthropic", "overdue")
            await page.shoot(out / "tags.png", 1200, 820)
    finally:
        browser.terminate()
        browser.wait()


def main() -> None:
    """Make a run and take its pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / ".docs" / "img")
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    native = runpy.run_path(str(ROOT / "deployments" / "native.py"))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        native["stack"](Path(home), postgres=False) as stack,
    ):
        from batchata_prefect.sandbox import Sandbox

        with Sandbox(seconds=4.0) as sandbox:
            ids = make_run(stack, sandbox, Path(home) / "invoices", 1500, 12)
            failed = make_run(stack, sandbox, Path(home) / "overdue", 60, 60)
        asyncio.run(shoot(stack, ids, failed, told.out, Path(home)))


if __name__ == "__main__":
    main()
