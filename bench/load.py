"""A long day of a real ComfyUI: many queued graphs, and many interrupts.

    python bench/load.py --host COMFYUI [--prompts 200] [--interrupts 50] [--seed 0] [--plot FILE] [--json FILE]

Graphs of our nodes and stock ones with the bundled VAE, on the CPU, no two the same, so that no result comes from a
cache. After each the resident memory of the host's process is taken. Then decodes and trainings are interrupted at
random moments, and after each a graph has to work. The exit status is 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from chart import draw_chart
from PIL import Image

ROOT = Path(__file__).parents[1]
MIB = 2**20
WARM_UP = 40


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(number: int, rng: random.Random) -> dict[str, Any]:
    """One of four kinds; all end in a preview."""
    loader = node("AsymVQLoader", vae_name="demo (bundled)", base_vae="none", dtype="fp32")
    pictures = node("AsymVQDemoPictures")
    end = {"end": node("PreviewImage", images=["last", 0])}
    kind = number % 4
    if kind == 0:  # the quickstart's way
        return {
            "vae": loader, "pictures": pictures, **end,
            "latent": node("VAEEncode", pixels=["pictures", 2], vae=["vae", 0]),
            "last": node("AsymVQDecode", samples=["latent", 0], vae=["vae", 0], image=["pictures", 0],
                         mask=["pictures", 1], keep=rng.choice(("exact", "network")), grow_mask=number % 100,
                         tiling=rng.choice(("auto", "on")), tile_size=rng.choice((256, 512)), overlap=64,
                         region=rng.choice(("auto", "masked", "full"))),
        }  # fmt: skip
    if kind == 1:  # our VAE in stock nodes
        return {
            "vae": loader, **end,
            "picture": node("EmptyImage", width=256 + 8 * rng.randrange(32), height=256, batch_size=1, color=number),
            "latent": node("VAEEncode", pixels=["picture", 0], vae=["vae", 0]),
            "last": node("VAEDecode", samples=["latent", 0], vae=["vae", 0]),
        }  # fmt: skip
    if kind == 2:  # masks and numbers
        return {
            "pictures": pictures, **end,
            "mask": node("AsymVQRandomMask", seed=number, width=640, height=424, batch_size=1, thickness=1.0),
            "blurred": node("ImageBlur", image=["pictures", 0], blur_radius=1 + number % 20, sigma=1.0),
            "last": node("AsymVQCompare", **{"results.result_1": ["blurred", 0]}, reference=["pictures", 0],
                         mask=["mask", 0], labels="blurred", compare="kept pixels", amplify=10.0),
        }  # fmt: skip
    return {  # stock inpainting's encode, our decode
        "vae": loader, "pictures": pictures, **end,
        "latent": node("VAEEncodeForInpaint", pixels=["pictures", 0], vae=["vae", 0], mask=["pictures", 1],
                       grow_mask_by=number % 60),
        "last": node("AsymVQDecode", samples=["latent", 0], vae=["vae", 0], image=["pictures", 0], mask=["pictures", 1],
                     keep="exact", grow_mask=0, tiling="auto", tile_size=512, overlap=64, region="auto"),
    }  # fmt: skip


def training(number: int) -> dict[str, Any]:
    """Longer than anybody waits."""
    return {
        "vae": node("AsymVQLoader", vae_name="demo (bundled)", base_vae="none", dtype="fp32"),
        "pictures": node("AsymVQDemoPictures"),
        "train": node(
            "AsymVQTrain", vae=["vae", 0], images=["pictures", 0], folder="none", preset="base", steps=100_000,
            seed=number, save_name="load", resume=False, recipe="fidelity",
            **{f"recipe.{name}": value for name, value in RECIPE.items()},
        ),
        "end": node("AsymVQLossPlot", loss_map=["train", 1], title="x", width=320, height=240),
        "shown": node("PreviewImage", images=["end", 0]),
    }  # fmt: skip


RECIPE = {
    "batch": 1, "accumulate": 1, "crop": 64, "learning_rate": 1e-4, "lpips": 0.0, "ssim": 0.2, "adversarial": 0.0,
    "adversarial_start": 0, "border": 2.0, "unconditioned": 0.5, "harmonise": 0.5, "save_memory": False,
    "dtype": "fp32",
}  # fmt: skip


def outcome(history: dict[str, Any]) -> str:
    """success, interrupted, or what went wrong."""
    messages = dict(history["status"]["messages"])
    if "execution_interrupted" in messages:
        return "interrupted"
    if "execution_error" in messages:
        return messages["execution_error"]["exception_message"]
    return history["status"]["status_str"]


def post(url: str, content: object) -> Any:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read() or "null")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--interrupts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG of the memory over the graphs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from host.conftest import make_base_folder
    from host.server import Server

    rng = random.Random(args.seed)
    failures: list[str] = []
    interrupts = {"interrupted": 0, "success": 0}
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.host, make_base_folder(Path(folder) / "base"))
        server.wait_until_ready()
        process = psutil.Process(server.process_id)
        try:
            started = time.perf_counter()
            for number in range(args.prompts):
                result = outcome(server.run(graph(number, rng)))
                if result != "success":
                    failures.append(f"graph {number}: {result}")
                memory.append(process.memory_info().rss / MIB)
            taken = time.perf_counter() - started
            for number in range(args.interrupts):
                longer = training(number) if number % 2 else graph(4 * (1000 + number), rng)
                prompt_id = post(f"{server.url}/prompt", {"prompt": longer})["prompt_id"]
                time.sleep(rng.uniform(0, 3 if number % 2 else 1))
                # for this graph alone: one that has not begun would not hear it
                while not server.get(f"/history/{prompt_id}"):
                    post(f"{server.url}/interrupt", {"prompt_id": prompt_id})
                    time.sleep(0.3)
                result = outcome(server.wait_for(prompt_id))
                if result in interrupts:
                    interrupts[result] += 1
                else:
                    failures.append(f"interrupt {number}: {result}")
                result = outcome(server.run(graph(10_000 + number, rng)))
                if result != "success":
                    failures.append(f"after interrupt {number}: {result}")
            after = process.memory_info().rss / MIB
        finally:
            server.stop()

    print(f"{args.prompts} graphs in {taken:.0f} s; {interrupts['interrupted']} of {args.interrupts} were interrupted, "
          f"{interrupts['success']} ended before; {len(failures)} failed.")  # fmt: skip
    print(*failures, sep="\n")
    if len(memory) > 2 * WARM_UP:
        early, late = (statistics.mean(part) for part in (memory[WARM_UP : 2 * WARM_UP], memory[-WARM_UP:]))
        print(f"Resident memory: {early:.0f} MiB over graphs {WARM_UP} to {2 * WARM_UP}, {late:.0f} MiB over the last "
              f"{WARM_UP} ({late - early:+.0f}), {after:.0f} MiB after the interrupts.")  # fmt: skip
    if args.plot:
        chart: Image.Image = draw_chart(
            {"the host's resident memory": list(enumerate(memory, 1))},
            title="Memory of the host over queued graphs",
            x_label="graphs",
            y_label="MiB",
            from_zero=True,
        )
        chart.save(args.plot, optimize=True)
    if args.json:
        args.json.write_text(json.dumps({"memory": memory, "interrupts": interrupts, "failures": failures}) + "\n")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
