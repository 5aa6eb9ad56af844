"""Train Asymmetric VQGAN Decoder."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..asymvq.autoencoder import AsymmetricAutoencoder
from ..asymvq.checkpoint import CheckpointError, build, from_tensors, read
from ..asymvq.config import ConditionKind
from ..asymvq.grow import grown_config
from ..asymvq.losses import LOSSES, Setting, settings_of
from ..asymvq.outputs import check_below
from ..asymvq.perceptual import fetch_lpips
from ..asymvq.pictures.folders import pictures_in
from ..asymvq.training import recipe as recipes
from ..asymvq.training.data import Pictures
from ..asymvq.training.loop import Report, Training
from ..asymvq.training.preview import Preview
from ..asymvq.training.start import condition_to_train
from . import host
from .host import CATEGORY, plain_errors, say, show_on_node
from .places import place_below_output
from .progress import HostProgress
from .tensors import image_tensor
from .vae import AsymmetricVAE

logger = logging.getLogger(__name__)

NO_FOLDER = "none"
LOSSES_IN_RECIPE = ("lpips", "ssim", "adversarial", "adversarial_start", "border")
"""Settings of losses that appear below the recipe, where saved workflows have their values. Those of newer losses come
last on the node, so that saved values keep their places."""
PRESETS = ("base", "1.5x", "2x", "custom")
STATES = Path("asymvq_training")
"""Folder of unfinished runs, below the output folder. Not in its vae folder, whose files appear in loaders."""
PICTURE_SECONDS = 5.0
"""Between two live pictures."""
STOP_SECONDS = 600.0
"""How long a server that is being stopped waits for a training to save."""


class Precision(str, Enum):
    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    def resolved(self, device: torch.device) -> recipes.Precision:
        if self is not Precision.AUTO:
            return recipes.Precision(self.value)
        half = device.type == "cuda" and host.should_use_bf16(device)
        return recipes.Precision.BF16 if half else recipes.Precision.FP32


class Condition(str, Enum):
    AUTO = "auto"
    AFFINE = "affine"
    BLEND = "blend"

    @property
    def kind(self) -> ConditionKind | None:
        return None if self is Condition.AUTO else ConditionKind(self.value)


def _loss_settings() -> dict[str, Setting]:
    """Those with a widget, by their names."""
    return {setting.name: setting for setting in settings_of(LOSSES) if setting.widget is not None}


def _loss_input(setting: Setting, default: float, *, optional: bool = False) -> io.Input:
    """Its widget."""
    assert setting.widget is not None
    common: dict[str, Any] = {"min": 1 if setting.positive else 0, "tooltip": setting.text, "optional": optional}
    maximum, step = setting.widget.maximum, setting.widget.step
    if isinstance(setting.default, int):
        return io.Int.Input(setting.name, default=int(default), max=int(maximum), step=step and int(step), **common)
    return io.Float.Input(setting.name, default=default, max=maximum, step=step, **common)


def _newer_loss_inputs() -> list[io.Input]:
    """With the values of the default recipe, which are all recipes'."""
    newer = (setting for name, setting in _loss_settings().items() if name not in LOSSES_IN_RECIPE)
    return [_loss_input(setting, setting.default, optional=True) for setting in newer]


def _recipe_inputs(recipe: recipes.Recipe) -> list[io.Input]:
    """The widgets of a recipe, with its own defaults."""
    return [
        io.Int.Input(
            "batch", default=recipe.batch, min=1, max=256,
            tooltip="How many pictures are shown in each batch.",
        ),
        io.Int.Input(
            "accumulate", default=1, min=1, max=256,
            tooltip="How many batches make one step. More batches need no more memory than one.",
        ),
        io.Int.Input(
            "crop", default=recipe.crop, min=32, max=1024, step=8,
            tooltip="Side of the square training crops, in pixels.",
        ),
        io.Float.Input(
            "learning_rate", default=recipe.lr, min=1e-8, max=0.1, step=1e-7,
            tooltip="Peak learning rate, reached after warm-up.",
        ),
        *(_loss_input(_loss_settings()[name], getattr(recipe, name)) for name in LOSSES_IN_RECIPE),
        io.Float.Input(
            "unconditioned", default=recipe.unconditioned, min=0, max=1, step=0.05,
            tooltip=(
                "Share of the samples that are decoded without source and mask, so that the decoder also "
                "works for text-to-image."
            ),
        ),
        io.Float.Input(
            "harmonise", default=recipe.harmonise, min=0, max=1, step=0.05,
            tooltip=(
                "Share of the samples whose latent has shifted colours: from these the decoder learns to "
                "undo colour shifts."
            ),
        ),
        io.Boolean.Input(
            "save_memory", default=False,
            tooltip="Use less memory by computing activations again (gradient checkpointing). Slower.",
        ),
        io.Combo.Input(
            "dtype", options=Precision, default=Precision.AUTO,
            tooltip="The precision to train in. auto: bf16 where the GPU supports it, otherwise fp32.",
        ),
    ]  # fmt: skip


class AsymVQTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQTrain",
            display_name="Train Asymmetric VQGAN Decoder",
            category=CATEGORY,
            description=(
                "Trains a decoder for a VAE that is shown the pixels to keep. The encoder stays as it is, so that the "
                "decoder fits every model that uses this VAE. Interrupting saves, as does stopping the server; "
                "queueing again goes on."
            ),
            search_aliases=[
                "train vae",
                "asymmetric vae",
                "vqgan",
                "finetune decoder",
                "keep unmasked",
                "train decoder",
                "训练",
            ],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Vae.Input(
                    "vae",
                    tooltip=(
                        "The VAE to start from: SD1.5, SDXL, SD3, FLUX, FLUX.2, Wan 2.1, Qwen-Image, a tiny or an "
                        "asymmetric one. Its encoder"
                        " stays as it is; a new decoder is trained."
                    ),
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures to train on, for example from Load Image (from Folder)."
                ),
                io.Combo.Input(
                    "folder",
                    options=[NO_FOLDER, *host.get_input_subfolders()],
                    default=NO_FOLDER,
                    tooltip=(
                        "A folder inside ComfyUI's input folder, with the folders below it. Use it "
                        "instead of the images input; it may hold many pictures."
                    ),
                ),
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        *(io.DynamicCombo.Option(name, []) for name in PRESETS[:-1]),
                        io.DynamicCombo.Option(
                            PRESETS[-1],
                            [
                                io.Float.Input(
                                    "width",
                                    default=1.0,
                                    min=1.0,
                                    max=8.0,
                                    step=0.25,
                                    tooltip="How many times wider (more channels) the decoder becomes.",
                                ),
                                io.Int.Input(
                                    "depth",
                                    default=0,
                                    min=0,
                                    max=8,
                                    tooltip="How many residual blocks are added to each level of the decoder.",
                                ),
                            ],
                        ),
                    ],
                    tooltip=(
                        "Size of the new decoder compared with the VAE's own. Larger decoders draw better"
                        " and are slower."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=recipes.Recipe.steps,
                    min=1,
                    max=10_000_000,
                    tooltip="Of the whole run. A finished run goes on if this is more than it has made.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed, pictures and settings give the same run.",
                ),
                io.String.Input(
                    "save_name",
                    default="asymmetric",
                    tooltip=(
                        "Written to output/vae as it goes, where the VAE loaders find it. A file that is not this "
                        "run's is never overwritten."
                    ),
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip=(
                        "Go on with the run of this name; what differs from its settings is shown here. A finished run "
                        "needs more steps, or another name. Off: a new run under a new, numbered name."
                    ),
                ),
                io.DynamicCombo.Input(
                    "recipe",
                    options=[
                        io.DynamicCombo.Option(name, _recipe_inputs(recipe)) for name, recipe in recipes.RECIPES.items()
                    ],
                    tooltip=(
                        "A set of training settings. quick: for one GPU and some hundred pictures. "
                        "fidelity: needs no download. paper: as in the publication, for very long "
                        "trainings."
                    ),
                ),
                io.Combo.Input(
                    "condition",
                    options=Condition,
                    default=Condition.AUTO,
                    optional=True,
                    tooltip=(
                        "How the decoder is shown the kept pixels. affine: scales and shifts its features, and starts "
                        "as the VAE's own decoder. blend: mixes features in, as in the paper. auto: as in the run that "
                        "goes on or the VAE; otherwise affine, or blend with recipe paper."
                    ),
                ),
                *_newer_loss_inputs(),
            ],
            outputs=[
                io.Vae.Output(tooltip="The VAE with the trained decoder. It is also saved in output/vae."),
                io.Custom("LOSS_MAP").Output(
                    "loss_map", display_name="loss_map", tooltip="The losses of every step, for Plot Training Loss."
                ),
                io.String.Output("path", display_name="path", tooltip="The path of the file that was written."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any = NO_FOLDER, **_: Any) -> str:
        """A folder whose files changed is trained on again."""
        path = _input_folder(_first(folder))
        files = [] if path is None else pictures_in(path)
        return str([(str(f), f.stat().st_mtime) for f in files if f.exists()])

    @classmethod
    @plain_errors
    def execute(
        cls,
        vae: list[Any],
        folder: list[str],
        preset: dict[str, Any],
        steps: list[int],
        seed: list[int],
        save_name: list[str],
        resume: list[bool],
        recipe: dict[str, Any],
        images: list[Tensor] | None = None,
        condition: list[str] | None = None,
        **losses: list[float],
    ) -> io.NodeOutput:
        device = host.get_torch_device()
        values = {name: _first(value) for name, value in {**recipe, **losses}.items()}
        settings = _recipe(values, _first(steps), device)
        out, states = _places(_first(save_name), resume=_first(resume))
        if settings.lpips and settings.steps:
            fetch_lpips(_Fetching(str(cls.hidden.unique_id)))
        with torch.inference_mode(False), torch.enable_grad(), _training_mode():
            base = _copy_of(_first(vae))
            pictures = _pictures(images, _input_folder(_first(folder)), settings)
            kind = Condition(_first(condition) or Condition.AUTO).kind
            shown = condition_to_train(base.config, settings, kind=kind, folder=states)
            size = _preset({k: _first(v) for k, v in preset.items()})
            training = Training(
                base, grown_config(base.config, size, condition=shown), pictures, settings,
                out=out, folder=states, seed=_first(seed), resume=True, device=device,
            )  # fmt: skip
            with contextlib.closing(training), _saved_when_the_server_stops(training):
                text = _run(training, str(cls.hidden.unique_id))
            losses = {"loss": training.history.get("loss", [])}
        # no preview in `ui`: Nodes 2.0 would draw it below the live one, which stays
        said = say(cls, "\n".join([text, f"Saved as {_below_output(out)}.", *training.notes]))
        return io.NodeOutput(AsymmetricVAE(read(out)), losses, str(out), ui=said)


class _Fetching:
    """The download of LPIPS' network, on the node and its bar."""

    def __init__(self, node: str) -> None:
        self._node, self._bar, self._shown = node, HostProgress(), -1

    def __call__(self, done: int, total: int) -> None:
        self._bar(done, total)
        if (percent := 100 * done // total) > self._shown:
            self._shown = percent
            show_on_node(f"Fetching the weights of VGG, once: {done / 1e6:.0f} of {total / 1e6:.0f} MB.", self._node)


def _first(value: Any) -> Any:
    """Of an input that comes as a list."""
    return value[0] if isinstance(value, list) else value


def _recipe(values: dict[str, Any], steps: int, device: torch.device) -> recipes.Recipe:
    values = dict(values)
    base = recipes.RECIPES[values.pop("recipe")]
    precision = Precision(values.pop("dtype", Precision.AUTO)).resolved(device)
    lr, recompute = values.pop("learning_rate", base.lr), values.pop("save_memory", False)
    return dataclasses.replace(base, steps=steps, lr=lr, recompute=recompute, precision=precision, **values)


def _preset(values: dict[str, Any]) -> str:
    if values["preset"] != PRESETS[-1]:
        return values["preset"]
    return f"{values['width']:g}x+{values['depth']}"


def _places(save_name: str, *, resume: bool) -> tuple[Path, Path]:
    """The file to write and the folder of the run's state."""
    check_below(save_name)
    place = place_below_output(f"vae/{save_name}")
    states_of = Path(host.get_output_directory()) / STATES / place.subfolder

    def places(name: str) -> tuple[Path, Path]:
        return place.folder / f"{name}.safetensors", states_of / name

    out, states = places(place.name)
    counter = place.counter
    while not resume and (out.exists() or states.exists()):
        out, states = places(f"{place.name}_{counter:05}")
        counter += 1
    return out, states


def _copy_of(vae: Any) -> AsymmetricAutoencoder:
    """The weights as a module of our own, on the CPU in float32; the host's may be shared and off-loaded."""
    try:
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in vae.get_sd().items()}
        return build(from_tensors(tensors), dtype=torch.float32)
    except (CheckpointError, AttributeError) as error:
        raise ValueError(
            f"Expected a picture VAE of the Stable Diffusion kind (SD1.5, SDXL, SD3, FLUX, asymmetric), but got "
            f"another: {error}"
        ) from error


def _pictures(images: list[Tensor] | None, folder: Path | None, recipe: recipes.Recipe) -> Pictures:
    if folder is not None:
        return Pictures.from_folder(folder, crop=recipe.crop, crop_scale=recipe.crop_scale)
    if not images:
        raise ValueError("Expected pictures to train on, but got none. Choose a folder, or connect images.")
    pixels = [
        picture.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
        for image in images
        for picture in image_tensor(image)
    ]
    return Pictures(pixels, crop=recipe.crop, crop_scale=recipe.crop_scale)


def _input_folder(name: str) -> Path | None:
    if name == NO_FOLDER:
        return None
    base = Path(host.get_input_directory()).resolve()
    path = (base / name).resolve()
    if base not in path.parents or not path.is_dir():
        raise ValueError(f"Expected a folder inside {base}, but got {name!r}.")
    return path


@contextlib.contextmanager
def _training_mode() -> Iterator[None]:
    """All memory for the training, and the host told of it; put back however it ends."""
    host.unload_all_models()
    try:
        with host.told_of_training():
            yield
    finally:
        host.soft_empty_cache()


@contextlib.contextmanager
def _saved_when_the_server_stops(training: Training) -> Iterator[None]:
    """The server's end waits for a step and a save: nodes run in a thread that would end with it, wherever it is."""
    saved = threading.Event()

    def wait() -> None:
        training.stop()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not break the save
        logger.warning("The training is saved before the server stops.")
        saved.wait(STOP_SECONDS)

    atexit.register(wait)
    try:
        with _signals_delayed(training.stop):
            yield
    finally:
        saved.set()
        atexit.unregister(wait)


@contextlib.contextmanager
def _signals_delayed(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGHUP, which would end the process at once, call `stop`, and take effect after the block."""
    loop = getattr(host.running_server(), "loop", None)
    if loop is None or not loop.is_running():
        yield
        return
    previous: dict[int, Any] = {}
    arrived: list[int] = []

    def handle(number: int, frame: object) -> None:
        arrived.append(number)
        stop()

    def install() -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, handle)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)

    # only the main thread, where the server's loop runs, may change handlers
    loop.call_soon_threadsafe(install)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the server
            loop.call_soon_threadsafe(restore)


def _run(training: Training, node: str) -> str:
    """Trains to the end, with progress and a picture on the node; what is to stand there when it has ended."""
    preview = Preview(training)
    bar = host.ProgressBar(training.recipe.steps)
    drawn, loss = -PICTURE_SECONDS, ""
    show_on_node("\n".join(training.notes), node)
    try:
        with contextlib.closing(iter(training)) as reports:
            for report in reports:
                live = None
                if time.monotonic() - drawn >= PICTURE_SECONDS:
                    live, drawn = _live(preview), time.monotonic()
                bar.update_absolute(report.step, report.steps, live)
                loss = f", loss {report.loss:.4g}"
                show_on_node("\n".join([_text(report), *training.notes]), node)
                host.throw_exception_if_processing_interrupted()
        if not training.finished:
            raise host.InterruptProcessingException  # stopped with the server
    except host.InterruptProcessingException:
        show_on_node(f"Stopped after step {training.step} of {training.recipe.steps}: saved. Run again to go on.", node)
        raise
    bar.update_absolute(training.recipe.steps, training.recipe.steps, _live(preview))
    best = training.best.step
    kept = "" if best in (None, training.step) else f" Saved: step {best}, the best on held-out pictures."
    return f"Finished: {training.step} steps{loss}.{kept}"


def _live(preview: Preview) -> tuple[str, Image.Image, int]:
    """As the host takes it: format, picture, longest side."""
    picture = preview.draw()
    return "JPEG", picture, max(picture.size)


def _text(report: Report) -> str:
    minutes, seconds = divmod(round(report.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    skipped = f", {report.skipped} steps skipped" if report.skipped else ""
    return (
        f"step {report.step} of {report.steps}: loss {report.loss:.4g}, {report.samples_per_second:.3g} pictures/s, "
        f"{hours}:{minutes:02}:{seconds:02} left{skipped}"
    )


def _below_output(path: Path) -> Path:
    """As an artist knows it."""
    return Path("output") / path.relative_to(host.get_output_directory())
