"""The training loop: a generator of step reports. Command line, node and tests drive the same one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from ..autoencoder import AsymmetricAutoencoder
from ..checkpoint import save
from ..checkpoint.writing import remove_leftovers
from ..config import AutoencoderConfig
from ..grow import grow, match_norms
from ..layers import Level
from ..losses import PatchDiscriminator, discriminator_loss
from .copying import check_copying, copied_modules, hold_to_code, start_with_copying
from .data import Batch, Pictures, Samples
from .distributed import Processes
from .recipe import Precision, Recipe, Start
from .state import (
    State,
    optimizer_tensors,
    pack,
    read_state,
    restore_optimizer,
    state_folder,
    unpack,
    write_state,
)
from .step import Criterion, sample_latent

logger = logging.getLogger(__name__)

BAD_STEPS = 5
"""So many steps without a finite gradient, one after the other, end a run."""
MATCHED_PICTURES = 8
FIRST_LR = 0.01
"""Where the warm-up starts, as a share of the learning rate (the paper's)."""
SPEED_STEPS = 50
"""Steps that the reported speed is the mean of."""


class TrainingError(RuntimeError):
    """The run cannot go on; what it had is on disk."""


@dataclass(frozen=True)
class Report:
    """Where a run stands after a step."""

    step: int
    steps: int
    loss: float
    """What the decoder minimises; NaN where the step was skipped."""
    figures: dict[str, float]
    """Single losses: "kept" and "generated" L1, and those that the recipe has weights for."""
    lr: float
    samples_per_second: float
    seconds_left: float
    skipped: int
    """Steps without a finite gradient so far."""
    saved: bool
    """Whether this step is on disk."""


class Training:
    """A run: `for report in training: …`. However it ends, what it reached is saved.

    Args:
        vae: whose encoder stays and whose decoder training starts from. It is left alone.
        config: what is trained: from `asymvq.grow.grown_config`.
        pictures: to train on.
        out: the `.safetensors` file to write.
        folder: for the run's state; by default beside `out`, `NAME.training`.
        seed: of everything random.
        resume: go on from the state on disk, if there is one. Only `recipe.steps` and other numbers of the recipe may
            differ from the run's; the network may not.
        save_seconds: how often the state and `out` are written; also after the last step, and when the run is stopped.
        save_steps: the same in steps.
        metadata: added to the header of `out`.

    Raises:
        ValueError: a VAE without an encoder, a state that does not fit or would be overwritten, or a recipe that asks
            for what is not there.
    """

    def __init__(
        self,
        vae: AsymmetricAutoencoder,
        config: AutoencoderConfig,
        pictures: Pictures,
        recipe: Recipe,
        *,
        out: Path,
        folder: Path | None = None,
        seed: int = 0,
        resume: bool = False,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
        save_seconds: float = 600.0,
        save_steps: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        if config.encoder_channels is None:
            raise ValueError(
                "Expected a VAE with an encoder to train on, but this file holds only a decoder. Choose a complete VAE."
            )
        self.recipe, self.out, self.seed = recipe, out, seed
        self.folder = folder or state_folder(out)
        self.device, self.processes = torch.device(device), processes or Processes()
        self.save_seconds, self.save_steps = save_seconds, save_steps
        self.metadata = dict(metadata or {})
        self.samples = Samples(pictures, recipe, config, seed=seed)
        self.step = self.skipped = 0
        self._stop = False
        self._whole = True  # not in the middle of an update of the weights
        self.history: dict[str, list[float]] = {}

        self._encoder = _digest(vae)
        state = self._state_to_resume(config, resume)
        self.vae = _started(vae, config, recipe, self.samples, seed, weights_follow=state is not None)
        self.vae.requires_grad_(False).eval().to(device=self.device)
        self._channels_last = recipe.channels_last and self.device.type != "cpu"
        if self._channels_last:
            self.vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] torch's stubs lack it
        self._make_trainable()
        if state is not None:
            self._restore(state)

    def _state_to_resume(self, config: AutoencoderConfig, resume: bool) -> State | None:
        state = read_state(self.folder)
        if state is None:
            return None
        if not resume:
            raise ValueError(
                f"Expected no earlier run, but {self.folder} holds one at step {state.step}. Resume it, choose another "
                "name, or remove that folder."
            )
        if state.settings["config"] != _plain(config):
            raise ValueError(
                f"Expected a run of the same network, but {self.folder} holds one of {state.settings['config']}, and "
                f"{_plain(config)} is asked for. Use the same preset and VAE, or another name."
            )
        if state.settings["encoder"] != self._encoder:
            raise ValueError(
                f"Expected the VAE that the run in {self.folder} was started with, but got one with another encoder. "
                "Use that VAE, or another name."
            )
        changes = {
            name: f"{state.settings['recipe'].get(name)} → {value}"
            for name, value in self._recipe_as_kept().items()
            if state.settings["recipe"].get(name) != value
        }
        for name, value in (("seed", self.seed), ("pictures", len(self.samples.pictures))):
            if state.settings.get(name) != value:
                changes[name] = f"{state.settings.get(name)} → {value}"
        if changes:
            logger.info("Going on with other settings: %s.", changes)
        return state

    def _make_trainable(self) -> None:
        recipe, decoder = self.recipe, self.vae.decoder
        decoder.requires_grad_(True)
        if recipe.copying:
            for module in copied_modules(self.vae):
                module.requires_grad_(False)
        for level in decoder.up:
            assert isinstance(level, Level)
            level.recompute = recipe.recompute
        self.parameters = {p: name for name, p in self.vae.named_parameters() if p.requires_grad}
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        self.optimizer = kind(self._parameter_groups(), betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.scaler = GradScaler(self.device.type, enabled=recipe.precision is Precision.FP16)
        self.average = {name: p.detach().clone() for p, name in self.parameters.items()}

        self.discriminator = None
        if recipe.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.discriminator = PatchDiscriminator(image_channels=self.vae.config.image_channels).to(self.device)
            self.discriminator_names = {p: name for name, p in self.discriminator.named_parameters()}
            self.discriminator_optimizer = torch.optim.Adam(
                self.discriminator.parameters(), lr=recipe.lr, betas=recipe.betas
            )
        lpips = None
        if recipe.lpips:
            from ..perceptual import load_lpips

            lpips = load_lpips(self.device)
        self.criterion = Criterion(recipe, lpips, self.discriminator)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        slow = self.recipe.decoder_lr if self.recipe.start is Start.GROW else 1.0
        condition = "decoder.condition_encoder."
        groups = {1.0: [p for p, name in self.parameters.items() if name.startswith(condition)]}
        groups.setdefault(slow, []).extend(p for p, name in self.parameters.items() if not name.startswith(condition))
        return [{"params": parameters, "lr": self.recipe.lr, "share": share} for share, parameters in groups.items()]

    def __iter__(self) -> Generator[Report, None, None]:
        network = self.processes.wrap(self._compiled(), self.device)
        judge = self.discriminator and self.processes.wrap(self.discriminator, self.device)
        latents: dict[int, tuple[Tensor, Tensor]] = {}
        saved_at, bad_in_a_row = time.monotonic(), 0
        clock = [(saved_at, self.step)]
        unsaved = self.step == 0
        try:
            with _Prefetched(self.samples, self._batches()) as batches:
                while self.step < self.recipe.steps and not self._stop:
                    lr = self._set_lr()
                    loss, figures = self._optimise(network, judge, batches, latents)
                    good = math.isfinite(loss)
                    self.skipped += not good
                    bad_in_a_row = 0 if good else bad_in_a_row + 1
                    self.step += 1
                    unsaved = True
                    self._remember({"loss": loss, **figures, "lr": lr})
                    if bad_in_a_row == BAD_STEPS:
                        raise TrainingError(
                            f"Expected a finite loss, but {BAD_STEPS} steps in a row had none (step {self.step}). The "
                            f"last good weights are in {self.out}. Go on with a lower learning rate"
                            + (", or in fp32 or bf16." if self.recipe.precision is Precision.FP16 else ".")
                        )
                    now = time.monotonic()
                    due = now - saved_at >= self.save_seconds
                    if self.save_steps is not None:
                        due = due or self.step % self.save_steps == 0
                    if due or self.step == self.recipe.steps:
                        self.save()
                        saved_at, unsaved = now, False
                    clock = [*clock[-SPEED_STEPS:], (now, self.step)]
                    rate = (self.step - clock[0][1]) / max(now - clock[0][0], 1e-9)
                    yield Report(
                        step=self.step,
                        steps=self.recipe.steps,
                        loss=loss,
                        figures=figures,
                        lr=lr,
                        samples_per_second=rate * self._pictures_a_step,
                        seconds_left=(self.recipe.steps - self.step) / max(rate, 1e-9),
                        skipped=self.skipped,
                        saved=not unsaved,
                    )
        finally:
            if unsaved and self._whole:
                self.save()

    def stop(self) -> None:
        """Ends the run after the step that it is at, on all processes. What it reached is saved."""
        self._stop = True

    @property
    def _pictures_a_step(self) -> int:
        return self.recipe.batch * self.recipe.accumulate * self.processes.count

    def _compiled(self) -> nn.Module:
        if self.recipe.compile:
            self.vae.decoder.compile()
        return self.vae.decoder

    def _batches(self) -> Iterator[tuple[int, int]]:
        """First number and count of every batch of this process from here on."""
        size, count = self.recipe.batch, self.processes.count
        for number in itertools.count(self.step * self.recipe.accumulate):
            yield (number * count + self.processes.rank) * size, size

    def _set_lr(self) -> float:
        lr = learning_rate(self.recipe, self.step, pictures=self._pictures_a_step)
        for optimizer in (self.optimizer, getattr(self, "discriminator_optimizer", None)):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = lr * group.get("share", 1.0)
        return lr

    def _optimise(
        self,
        network: nn.Module,
        judge: nn.Module | None,
        batches: _Prefetched,
        latents: dict[int, tuple[Tensor, Tensor]],
    ) -> tuple[float, dict[str, float]]:
        """One step of the optimisers. The loss is NaN where the step had to be skipped."""
        recipe = self.recipe
        half = recipe.precision is not Precision.FP32
        adversarial = judge is not None and self.step + 1 >= recipe.adversarial_start
        logs: list[dict[str, Tensor]] = []
        if adversarial:
            self.discriminator_optimizer.zero_grad()
        for number in range(recipe.accumulate):
            last = number == recipe.accumulate - 1
            batch = _moved(next(batches), self.device, self._channels_last)
            with _without_sync(network, not last), _without_sync(judge, not last):
                with torch.autocast(self.device.type, dtype=_dtype(recipe), enabled=half):
                    latent = sample_latent(*self._posterior(batch, latents), batch)
                    output = network(self._post_quant(latent), image=batch.image, mask=batch.mask)
                loss, log = self.criterion.reconstruction(output, batch.image, batch.mask)
                if adversarial:
                    last_layer = self.vae.decoder.conv_out
                    more, figures = self.criterion.adversarial(loss, output.float(), last_layer=last_layer)
                    loss, log = loss + more, log | figures
                self.scaler.scale(loss / recipe.accumulate).backward()
                if adversarial:
                    assert judge is not None
                    of_judge, figures = discriminator_loss(judge, real=batch.image, generated=output.float())
                    (of_judge / recipe.accumulate).backward()
                    log |= figures
            logs.append({"loss": loss.detach(), **log})
        figures = self._means(logs)
        loss_value = figures.pop("loss")
        if not self._apply_gradients(math.isfinite(loss_value), adversarial=adversarial):
            return math.nan, figures
        return loss_value, figures

    def _apply_gradients(self, finite: bool, *, adversarial: bool) -> bool:
        """Whether there was a step: not where the loss or a gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.clip or math.inf
        norm = nn.utils.clip_grad_norm_(list(self.parameters), limit)
        finite = finite and bool(norm.isfinite())
        if finite:
            self._whole = False
            self.scaler.step(self.optimizer)
            if self.recipe.copying:
                hold_to_code(self.vae)
            self._update_average()
            if adversarial:
                self.discriminator_optimizer.step()
            self._whole = True
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    @torch.no_grad()
    def _posterior(self, batch: Batch, latents: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if batch.crops is None:
            return self.vae.posterior(batch.encoded)
        new = [i for i, crop in enumerate(batch.crops) if crop not in latents]
        if new:
            moments = self.vae.posterior(batch.encoded[new])
            for i, mean, deviation in zip(new, *(m.cpu() for m in moments), strict=True):
                latents[batch.crops[i]] = mean, deviation
        means, deviations = zip(*(latents[crop] for crop in batch.crops), strict=True)
        return torch.stack(means).to(self.device), torch.stack(deviations).to(self.device)

    @torch.no_grad()
    def _post_quant(self, latent: Tensor) -> Tensor:
        return latent if self.vae.post_quant_conv is None else self.vae.post_quant_conv(latent)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        for parameter, name in self.parameters.items():
            self.average[name].lerp_(parameter, 1 - decay)

    def _means(self, logs: list[dict[str, Tensor]]) -> dict[str, float]:
        names = list(logs[0])
        values = torch.stack([torch.stack([log[name].float() for name in names]) for log in logs])
        # a batch without kept (or generated) pixels has NaN for their loss; the loss itself must not hide one
        means = values.nanmean(dim=0)
        means[names.index("loss")] = values[:, names.index("loss")].mean()
        stop = torch.full_like(means[:1], float(self._stop))
        *figures, stopping = self.processes.mean(torch.cat([means, stop])).tolist()
        self._stop = stopping > 0
        return dict(zip(names, figures, strict=True))

    def _remember(self, entry: dict[str, float]) -> None:
        for name in {*self.history, *entry}:
            column = self.history.setdefault(name, [math.nan] * (self.step - 1))
            column.append(entry.get(name, math.nan))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[AsymmetricAutoencoder]:
        """The VAE with the averaged weights, as it is saved."""
        current = {name: p.detach().clone() for p, name in self.parameters.items()}
        try:
            self._set_weights(self.average)
            yield self.vae
        finally:
            self._set_weights(current)

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for parameter, name in self.parameters.items():
            parameter.copy_(weights[name])

    def save(self) -> None:
        """Writes the state, then `out`; on the first process alone."""
        if not self.processes.first:
            return
        tensors = pack("weights", {name: p for p, name in self.parameters.items()}) | pack("average", self.average)
        tensors |= pack("optimizer", optimizer_tensors(self.optimizer, self.parameters))
        if self.discriminator is not None:
            tensors |= pack("discriminator", dict(self.discriminator.state_dict()))
            tensors |= pack(
                "discriminator_optimizer", optimizer_tensors(self.discriminator_optimizer, self.discriminator_names)
            )
        tensors |= pack("history", {k: torch.tensor(v, dtype=torch.float64) for k, v in self.history.items()})
        if self.recipe.steps:
            state = State(self.step, tensors, self._settings(), self.skipped, self.scaler.state_dict())
            write_state(self.folder, state)
        summary = {"recipe": self.recipe.to_dict(), "steps": self.step, "pictures": len(self.samples.pictures)}
        remove_leftovers(self.out.parent, self.out.name)
        with self.averaged() as vae:
            save(vae, self.out, metadata={"asymvq.training": json.dumps(summary), **self.metadata})

    def _settings(self) -> dict[str, Any]:
        return {
            "config": _plain(self.vae.config),
            "encoder": self._encoder,
            "recipe": self._recipe_as_kept(),
            "seed": self.seed,
            "pictures": len(self.samples.pictures),
        }

    def _recipe_as_kept(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.recipe.to_dict()))

    def _restore(self, state: State) -> None:
        self.step, self.skipped = state.step, state.skipped
        self._set_weights(unpack("weights", state.tensors))
        self.average = {n: t.to(self.average[n], copy=True) for n, t in unpack("average", state.tensors).items()}
        restore_optimizer(self.optimizer, unpack("optimizer", state.tensors), self.parameters)
        if self.discriminator is not None and (weights := unpack("discriminator", state.tensors)):
            self.discriminator.load_state_dict(weights)
            moments = unpack("discriminator_optimizer", state.tensors)
            restore_optimizer(self.discriminator_optimizer, moments, self.discriminator_names)
        self.scaler.load_state_dict(state.scaler)
        self.history = {name: column.tolist() for name, column in unpack("history", state.tensors).items()}
        logger.info("Going on at step %d.", self.step)


class _Prefetched:
    """Batches made by a thread while the one before is trained on."""

    def __init__(self, samples: Samples, numbers: Iterator[tuple[int, int]]):
        self._samples, self._numbers = samples, numbers
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: Future[Batch] | None = None

    def __enter__(self) -> _Prefetched:
        self._next = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __next__(self) -> Batch:
        assert self._next is not None
        batch = self._next.result()
        self._next = self._start()
        return batch

    def _start(self) -> Future[Batch]:
        return self._pool.submit(self._samples.batch, *next(self._numbers))


def learning_rate(recipe: Recipe, step: int, *, pictures: int) -> float:
    """Linear warm-up from 1 %, then a cosine down to `final_lr`.

    Args:
        step: from 0.
        pictures: a step, over all devices.
    """
    full = recipe.lr * (pictures if recipe.scale_lr else 1)
    if step < recipe.warm_up:
        return full * (FIRST_LR + (1 - FIRST_LR) * step / recipe.warm_up)
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    last = min(recipe.final_lr, full)
    return last + (full - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _started(
    vae: AsymmetricAutoencoder,
    config: AutoencoderConfig,
    recipe: Recipe,
    samples: Samples,
    seed: int,
    *,
    weights_follow: bool,
) -> AsymmetricAutoencoder:
    """The network before its first step, float32 on the CPU."""
    if recipe.start is Start.SCRATCH:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            started = AsymmetricAutoencoder(config).float()
            frozen = {k: v for k, v in vae.state_dict().items() if not k.startswith("decoder.")}
            started.load_state_dict(frozen, strict=False)
            if recipe.copying:
                start_with_copying(started)
        return started
    started = grow(vae, config, seed=seed)
    if recipe.copying:
        check_copying(started)
    exact = all(new % old == 0 for new, old in zip(config.decoder_channels, vae.config.decoder_channels, strict=True))
    if not exact and not weights_follow:
        pictures = samples.batch(0, MATCHED_PICTURES).image
        reference = grow(vae, vae.config, seed=seed)  # a float32 copy on the CPU
        match_norms(started, reference, reference.encode(pictures))
    return started


def _plain(config: AutoencoderConfig) -> dict[str, Any]:
    """As it comes back from JSON."""
    return json.loads(json.dumps(config.to_dict()))


def _digest(vae: AsymmetricAutoencoder) -> str:
    """Tells apart what stays frozen: a decoder goes on with the encoder that it was trained for, and no other."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith("decoder."):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _moved(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = {
        field.name: getattr(batch, field.name).to(device, non_blocking=True, memory_format=layout)
        for field in dataclasses.fields(batch)
        if field.name != "crops"
    }
    return dataclasses.replace(batch, **tensors)


def _dtype(recipe: Recipe) -> torch.dtype:
    return torch.float16 if recipe.precision is Precision.FP16 else torch.bfloat16


def _without_sync(module: nn.Module | None, quiet: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients of all but a step's last batch are averaged over the processes together with its last."""
    return module.no_sync() if quiet and isinstance(module, DistributedDataParallel) else contextlib.nullcontext()
