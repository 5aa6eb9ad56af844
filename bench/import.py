"""What the pack adds to ComfyUI's start: the modules that it loads itself, and the seconds that they take.

    python bench/import.py --host COMFYUI [--runs 5]

Each run is a process of its own, in which the host's modules are loaded first, as they are when custom nodes are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PACK = Path(__file__).parents[1]
PROGRAM = """
import asyncio, importlib.util, json, logging, sys, time
host, pack = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, host)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import utils.extra_config
import nodes, server, comfy_api.latest
logging.disable(logging.CRITICAL)
before = set(sys.modules)
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
async def register():
    return await (await module.comfy_entrypoint()).get_node_list()
count = len(asyncio.run(register()))
seconds = time.perf_counter() - start
others = sorted({name.split(".")[0] for name in set(sys.modules) - before} - {"pack"})
print(json.dumps({"seconds": seconds, "nodes": count, "others": others}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    command = [sys.executable, "-c", PROGRAM, str(args.host.expanduser().resolve()), str(PACK)]
    results = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for _ in range(args.runs)
    ]
    seconds = [result["seconds"] for result in results]
    print(f"{results[0]['nodes']} nodes in {statistics.median(seconds):.3f} s (median of {args.runs})")
    print(f"modules of others that the host had not loaded: {', '.join(results[0]['others']) or 'none'}")


if __name__ == "__main__":
    main()
