"""A real ComfyUI as a process of its own, spoken to as the browser does."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Container, Iterator
from pathlib import Path
from typing import Any

import aiohttp

# Long, for a busy machine: a process that has ended is noticed at once.
START_SECONDS = 900
RUN_SECONDS = 900
REPLY_SECONDS = 300
TEXT_EVENT = 3
"""Of the host's BinaryEventTypes."""
PR_SET_PDEATHSIG = 1
"""Of Linux' prctl."""
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """In a child process, before it runs its program: it is to get SIGTERM when the tests end, however they do.

    On Linux only. Tests that are killed, and workers of pytest-xdist whose main process is, leave no server behind.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """ComfyUI on a free port of this machine, on the CPU, with its data in `base`."""

    def __init__(
        self, host: Path, base: Path, environment: dict[str, str] | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        self.base = base
        self._log_path = base / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "main.py", "--cpu", "--disable-auto-launch", "--base-directory", str(base), "--listen",
            "127.0.0.1", "--port", str(port), *arguments,
        ]  # fmt: skip
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=host, stdout=log, stderr=subprocess.STDOUT, env=environment,
                preexec_fn=end_with_parent if LIBC is not None else None,
            )  # fmt: skip

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def version(self) -> str:
        return self.get("/system_stats")["system"]["comfyui_version"]

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self, kind: str = "AsymVQLoader") -> None:
        """Until the host knows this node."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.get(f"/object_info/{kind}")
                return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-3000:]}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> int:
        """Sends a signal and waits for the end of the process, whose exit status it gives."""
        self._process.send_signal(number)
        return self._process.wait(RUN_SECONDS)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=REPLY_SECONDS) as response:
            return json.load(response)

    def post(self, path: str, value: Any) -> None:
        request = urllib.request.Request(
            self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS):
            pass

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queues a graph in API format and returns its history: status, messages, outputs."""
        return self.wait_for(self.queue(prompt))

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queues a graph in API format and returns its number."""
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as response:
                return json.load(response)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"not a valid graph: {error.read().decode()}") from error

    def texts(self, prompt: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Queues a graph as a browser does, and gives what is to be shown on nodes, by their numbers, until it ends."""
        for kind, data in self.events(prompt):
            assert kind not in ("execution_error", "execution_interrupted"), data
            if kind == "text":
                yield data["node"], data["text"]

    def events(self, prompt: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Queues a graph as a browser does, and gives what the browser is told, kind and data, until it ends."""
        loop, events = asyncio.new_event_loop(), self._events(prompt)
        try:
            while True:
                yield loop.run_until_complete(asyncio.wait_for(anext(events), RUN_SECONDS))
        except StopAsyncIteration:
            pass
        finally:
            loop.run_until_complete(events.aclose())
            loop.close()

    async def _events(self, prompt: dict[str, Any]) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        async with aiohttp.ClientSession(self.url) as session, session.ws_connect("/ws?clientId=test") as socket:
            async with session.post("/prompt", json={"prompt": prompt, "client_id": "test"}) as answer:
                reply = await answer.json()
            assert "prompt_id" in reply, f"not a valid graph: {reply}"
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    kind, length = struct.unpack(">II", message.data[:8])
                    if kind == TEXT_EVENT:
                        node, text = message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()
                        yield "text", {"node": node, "text": text}
                    continue
                event = message.json()
                if event["data"].get("prompt_id") == reply["prompt_id"]:
                    yield event["type"], event["data"]
                    if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                        return

    def wait_for(self, number: str) -> dict[str, Any]:
        """The history of a queued graph, when it has ended."""
        return self._wait(lambda: self.get(f"/history/{number}").get(number))

    def wait_for_new(self, known: Container[str]) -> dict[str, Any]:
        """The first history of a graph that is not among the known ones."""
        return self._wait(lambda: next((h for number, h in self.get("/history").items() if number not in known), None))

    def _wait(self, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            if history := look():
                return history
            assert self._process.poll() is None, self.log[-3000:]
            time.sleep(0.2)
        raise TimeoutError(f"the graph did not end:\n{self.log[-3000:]}")


def error_of(history: dict[str, Any]) -> str:
    """What the artist reads when a node fails."""
    messages = dict(history["status"]["messages"])
    assert "execution_error" in messages, history["status"]
    return messages["execution_error"]["exception_message"]
