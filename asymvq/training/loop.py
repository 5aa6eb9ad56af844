"""The training loop: a generator of step reports. Command line, node and tests drive the same one."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..autoencoder import AsymmetricAutoencoder
from ..checkpoint import Checkpoint, Layout, build
from ..config import Config
from ..layers import Level
from ..losses import PatchDiscriminator, discriminator_loss
from ..precision import why_slow
from .best import Best
from .computing import autocast, learning_rate, moved, without_sync
from .copying import copied_modules, hold_to_code
from .data import Pictures, Samples
from .distributed import Processes
from .files import RunFiles
from .health import Decode, Health
from .latents import Latents
from .prefetch import Prefetched
from .recipe import Precision, Recipe, Start
from .resume import known_to_run
from .seen import SeenByLosses, raw_decode
from .signals import deferred
from .start import decoder_digest, frozen_digest, needs_pictures, started
from .state import State, optimizer_tensors, pack, restore_optimizer, state_folder, unpack
from .step import Criterion, reconstruction_terms

logger = logging.getLogger(__name__)

BAD_STEPS = 5
"""So many steps without a finite loss, one after the other, end a run."""
SMALLEST_SCALE = 2.0**-20
"""Of the loss in half precision. Above it, a gradient that overflows is the scale's fault, which is then halved."""
SPEED_STEPS = 50
"""Steps that the reported speed is the mean of."""
MEASUREMENTS = 50
"""On held-out pictures, in the course of a run."""
HELD_OUT = "held_out"
CONDITION = "decoder.condition_encoder."
"""What names of the condition's weights begin with."""
"""Their loss, among the figures of a step."""


class TrainingError(RuntimeError):
    """The run cannot go on; the message says what of it is on disk."""


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


@dataclass(frozen=True)
class _Result:
    """Of one step."""

    loss: float
    figures: dict[str, float]
    stepped: bool
    bad: bool
    """Whether a step like this, again and again, means that the run is lost."""


class Training:
    """A run: `for report in training: …`. However it ends, what it reached is saved.

    From the start to the end of the iteration, or to `close`, no other process can write to the same files.

    Args:
        vae: whose encoder stays and whose decoder training starts from. It is left alone.
        config: what is trained: from `asymvq.grow.grown_config`.
        pictures: to train on. None for no steps, unless a fractional width needs some to match norms on.
        out: the `.safetensors` file to write.
        folder: for the run's state; by default beside `out`, `NAME.training`.
        seed: of everything random.
        resume: go on from the state on disk, if there is one. The network, the precision and `copying` must be the
            run's; what else differs is in `notes`. A run that has made all its steps goes on with more of them only.
        overwrite: `out` may be a file that no run of this folder wrote; without `resume`, an earlier run is replaced.
        save_seconds: how often the state and `out` are written; also after the last step, and when the run is stopped.
        save_steps: the same in steps.
        metadata: added to the header of `out`.
        held_out: pictures to measure on; None: a share of `pictures`, as the recipe says.

    Attributes:
        notes: what the user should know of how the run goes on, in sentences.

    Raises:
        ValueError: a VAE without an encoder, a state that does not fit, a finished run that is
            asked for something else, a name that no file can have, or a recipe that asks for what is not there.
        ExistsError: an earlier run, or a file that is not the run's, would be overwritten.
        LockedError: another process trains into the same files.
    """

    def __init__(
        self,
        vae: AsymmetricAutoencoder,
        config: Config,
        pictures: Pictures | None,
        recipe: Recipe,
        *,
        out: Path,
        folder: Path | None = None,
        seed: int = 0,
        resume: bool = False,
        overwrite: bool = False,
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
        save_seconds: float = 600.0,
        save_steps: int | None = None,
        metadata: Mapping[str, str] | None = None,
        held_out: Pictures | None = None,
    ):
        if config.encoder_channels is None:
            raise ValueError(
                "Expected a VAE with an encoder to train on, but this file holds only a decoder. Choose a complete VAE."
            )
        if pictures is None and (recipe.steps or needs_pictures(vae, config, recipe)):
            raise ValueError(
                "Expected pictures, to train on or to match the norms of a fractional width, but got none. Give some."
            )
        self.folder = folder or state_folder(out)
        if resume:
            recipe = known_to_run(recipe, self.folder)
        self.recipe, self.out, self.seed = recipe, out, seed
        self.device, self.processes = torch.device(device), processes or Processes()
        self.save_seconds, self.save_steps = save_seconds, save_steps
        self.metadata = dict(metadata or {})
        given, measured = pictures, held_out
        if pictures is not None and held_out is None:
            pictures, measured = pictures.split(recipe.held_out)
        self.samples = None if pictures is None else Samples(pictures, recipe, config, seed=seed)
        self.held_out: Samples | None = None
        """Of pictures that are not trained on."""
        if measured is not None:
            as_they_are = dataclasses.replace(recipe, fixed_crops=0, recoloured=0.0, turned=0.0)
            self.held_out = Samples(measured, as_they_are, config, seed=seed)
        self.best = Best()
        """What is saved, once something was measured."""
        self.step = self.skipped = 0
        self.history: dict[str, list[float]] = {}
        self._stop = False
        self._health: Health | None = None
        self._unsaved = False
        autocast(self.device, recipe)
        if said := why_slow(recipe.precision.dtype, self.device):
            logger.warning("%s", said)

        self._files = RunFiles(out, self.folder, resume=resume, overwrite=overwrite, writes=self.processes.first)
        try:
            settings = {
                "config": _plain(config.to_dict()),
                "encoder": frozen_digest(vae),
                "decoder": decoder_digest(vae),
                "recipe": _plain(recipe.to_dict()),
                "seed": seed,
                "pictures": 0 if given is None else len(given),
                "digest": None if given is None else given.digest(),
                "held_out": None if measured is None else measured.digest(),
                "processes": self.processes.count,
            }
            state = self._files.state_to_resume(settings)
            # what a run of an earlier version is called is not known, and its files do not say
            run = uuid.uuid4().hex if state is None else state.settings.get("run")
            self._settings = {**settings, "run": run}
            self.vae = started(vae, config, recipe, self.samples, seed, weights_follow=state is not None)
            self.vae.requires_grad_(False).eval().to(device=self.device)
            self._channels_last = recipe.channels_last and self.device.type != "cpu"
            if self._channels_last:
                self.vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] torch's stubs lack it
            self._make_trainable()
            if state is not None:
                self._restore(state)
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the run goes on, in sentences."""
        return self._files.notes

    def close(self) -> None:
        """Lets other processes write to the run's files. The end of an iteration does so too."""
        self._files.release()

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
        if recipe.keeps_decoder:
            for parameter, name in self.parameters.items():
                parameter.requires_grad_(name.startswith(CONDITION))
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        fused = self.device.type == "cpu" or None  # a third of the time there; elsewhere torch chooses well
        self.optimizer = kind(
            self._parameter_groups(), betas=recipe.betas, weight_decay=recipe.weight_decay, fused=fused
        )
        self.scaler = GradScaler(self.device.type, enabled=recipe.precision is Precision.FP16)
        self.average = {name: p.detach().clone() for p, name in self.parameters.items()}

        self.discriminator = None
        if recipe.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.discriminator = PatchDiscriminator(image_channels=self.vae.config.image_channels).to(self.device)
            self.discriminator_names = {p: name for name, p in self.discriminator.named_parameters()}
            self.discriminator_optimizer = torch.optim.Adam(
                self.discriminator.parameters(), lr=recipe.lr, betas=recipe.betas, fused=fused
            )
        terms = reconstruction_terms(recipe, self.device) if recipe.steps else []
        self.criterion = Criterion(recipe, terms, self.discriminator)
        self._seen = SeenByLosses(self.vae, recipe, self.device)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        slow = self.recipe.decoder_lr if self.recipe.start is Start.GROW else 1.0
        groups = {1.0: [p for p, name in self.parameters.items() if name.startswith(CONDITION)]}
        groups.setdefault(slow, []).extend(p for p, name in self.parameters.items() if not name.startswith(CONDITION))
        return [{"params": parameters, "lr": self.recipe.lr, "share": share} for share, parameters in groups.items()]

    def __iter__(self) -> Generator[Report, None, None]:
        self._files.acquire()
        try:
            if self.step and self.processes.first and not self._files.out_holds(self._settings["run"], self.step):
                self._write_out()
            yield from self._steps()
            # torchrun ends all where one ends badly, and the first may still be writing. And a tensor of Python's that
            # a thread of gloo's frees as Python ends aborts the process (pytorch/pytorch#190489): a barrier has none.
            self.processes.wait()
        finally:
            self.close()

    def _steps(self) -> Generator[Report, None, None]:
        network = self.processes.wrap(self._compiled(), self.device)
        judge = self.discriminator and self.processes.wrap(self.discriminator, self.device)
        latents = self._latents(cached=True)
        saved_at, bad_in_a_row = time.monotonic(), 0
        clock = [(saved_at, self.step)]
        self._unsaved = self.step == 0
        if self.finished:
            return
        assert self.samples is not None
        if self.processes.first:
            self._health = Health(self.samples.preview(self.seed)[None].to(self.device), self.vae, self._decoders())
        try:
            with Prefetched(self.samples, self._batches()) as batches:
                while not self.finished and not self._stop:
                    lr = self._set_lr()
                    result = self._optimise(network, judge, batches, latents)
                    self.skipped += not result.stepped
                    bad_in_a_row = 0 if result.stepped else bad_in_a_row + result.bad
                    self.step += 1
                    self._unsaved = True
                    figures = {**result.figures, **self._measure_if_due()}
                    self._remember({"loss": result.loss, **figures, "lr": lr})
                    if bad_in_a_row == BAD_STEPS:
                        raise self._diverged(f"a finite loss, but {BAD_STEPS} steps in a row had none")
                    now = time.monotonic()
                    due = now - saved_at >= self.save_seconds
                    if self.save_steps is not None:
                        due = due or self.step % self.save_steps == 0
                    # in a row of bad steps nobody knows yet whose fault it is
                    if (due and not bad_in_a_row) or self.finished:
                        self.save()
                        saved_at = now
                    clock = [*clock[-SPEED_STEPS:], (now, self.step)]
                    rate = (self.step - clock[0][1]) / max(now - clock[0][0], 1e-9)
                    yield Report(
                        step=self.step,
                        steps=self.recipe.steps,
                        loss=result.loss,
                        figures=figures,
                        lr=lr,
                        samples_per_second=rate * self._pictures_a_step,
                        seconds_left=(self.recipe.steps - self.step) / max(rate, 1e-9),
                        skipped=self.skipped,
                        saved=not self._unsaved,
                    )
        finally:
            if self._unsaved:
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
        batches: Prefetched,
        latents: Latents,
    ) -> _Result:
        """One step of the optimisers. The loss is NaN where the step had to be skipped."""
        recipe = self.recipe
        adversarial = judge is not None and self.step + 1 >= recipe.adversarial_start
        logs: list[dict[str, Tensor]] = []
        if adversarial:
            self.discriminator_optimizer.zero_grad()
        for number in range(recipe.accumulate):
            last = number == recipe.accumulate - 1
            batch = moved(next(batches), self.device, self._channels_last)
            with without_sync(network, not last), without_sync(judge, not last):
                with autocast(self.device, recipe):
                    latent = self.vae.network_latent(latents.of(batch))
                output, strayed = self._seen.of(network, batch, latent)
                loss, log = self.criterion.reconstruction(output, batch.image, batch.mask)
                loss = loss + strayed * (batch.image[0].numel() if recipe.sum_pixels else 1)
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
        finite = math.isfinite(loss_value)
        if self._apply_gradients(finite, adversarial=adversarial):
            return _Result(loss_value, figures, stepped=True, bad=False)
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        return _Result(math.nan, figures, stepped=False, bad=not (finite and scaled))

    def _apply_gradients(self, finite: bool, *, adversarial: bool) -> bool:
        """Whether there was a step: not where the loss or a gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.clip or math.inf
        norm = nn.utils.clip_grad_norm_(list(self.parameters), limit)
        finite = finite and bool(norm.isfinite())
        if finite:
            with deferred():
                self.scaler.step(self.optimizer)
                if self.recipe.copying:
                    hold_to_code(self.vae)
                self._update_average()
                if adversarial:
                    self.discriminator_optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    def _latents(self, *, cached: bool) -> Latents:
        mixed = self.recipe.inside > 0 or self.recipe.other > 0
        return Latents(self.vae, mixed=mixed, cached=cached)

    @torch.no_grad()
    def _measure(self) -> float:
        """The mean loss of the averaged weights on held-out pictures: of the same samples every time."""
        assert self.held_out is not None
        count, losses = self.recipe.measured, list[Tensor]()
        latents = self._latents(cached=False)
        with self.averaged() as vae:
            for first in range(0, count, self.recipe.batch):
                size = min(self.recipe.batch, count - first)
                batch = moved(self.held_out.batch(first, size), self.device, self._channels_last)
                with autocast(self.device, self.recipe):
                    latent = vae.network_latent(latents.of(batch))
                output, _ = self._seen.of(vae.decoder, batch, latent)
                losses.append(self.criterion.reconstruction(output, batch.image, batch.mask)[0].float() * size)
        return self.processes.mean(torch.stack(losses).sum()[None] / count).item()

    def _measure_if_due(self) -> dict[str, float]:
        """What is to be remembered of a step besides. The best weights so far are kept."""
        if self.held_out is None:
            return {}
        every = self.recipe.measure_steps or max(1, self.recipe.steps // MEASUREMENTS)
        if self.step % every and self.step != self.recipe.steps:
            return {}
        loss = self._measure()
        if self.best.count(self.step, loss):
            self.best.keep(self.average)
        return {HELD_OUT: loss}

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train: all steps are made, or none of the last measurements was better."""
        patience = self.recipe.patience
        return self.step >= self.recipe.steps or (patience > 0 and self.best.since >= patience)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        averages = [self.average[name] for name in self.parameters.values()]
        get_ema_multi_avg_fn(decay)(averages, list(self.parameters), self.step)

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
        """Writes the state, then `out`; on the first process alone.

        Raises:
            TrainingError: the weights have diverged, or nothing can be written. What was on disk is as it was.
        """
        self._unsaved = False
        if not self.processes.first:
            return
        with deferred():
            tensors = self._tensors()
            if fault := self._fault(tensors):
                raise self._diverged(fault, save=False)
            try:
                if self.recipe.steps:
                    state = State(self.step, tensors, self._settings, self.skipped, self.scaler.state_dict())
                    self._files.write_state(state)
                self._write_out()
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise TrainingError(
                    f"Expected to write step {self.step}, but got: {where}{error.strerror or error}. "
                    f"{self._files.on_disk()}"
                ) from error
            except ValueError as error:
                raise TrainingError(f"{error} {self._files.on_disk()}") from error

    def _tensors(self) -> dict[str, Tensor]:
        """Of a state, on the CPU."""
        tensors = pack("weights", {name: p for p, name in self.parameters.items()}) | pack("average", self.average)
        if self.best.weights is not None:
            tensors |= pack("best", self.best.weights)
        tensors |= pack("optimizer", optimizer_tensors(self.optimizer, self.parameters))
        if self.discriminator is not None:
            tensors |= pack("discriminator", dict(self.discriminator.state_dict()))
            tensors |= pack(
                "discriminator_optimizer", optimizer_tensors(self.discriminator_optimizer, self.discriminator_names)
            )
        tensors |= pack("history", {k: torch.tensor(v, dtype=torch.float64) for k, v in self.history.items()})
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}

    def _write_out(self) -> None:
        summary = {
            "recipe": self.recipe.to_dict(),
            "steps": self.step,
            "pictures": self._settings["pictures"],
            "run": self._settings["run"],
            **({} if self.best.step is None else {"best_step": self.best.step}),
        }
        state = {name: tensor.cpu() for name, tensor in self.vae.state_dict().items()}
        state |= {name: tensor.cpu() for name, tensor in (self.best.weights or self.average).items()}
        # on the CPU: a device whose memory ran out has no room for a second copy
        averaged = build(Checkpoint(Layout.NATIVE, self.vae.config, state, {}), dtype=torch.float32)
        self._files.write_out(averaged, summary, self.metadata)

    def _fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """What is wrong with the weights."""
        for name, tensor in tensors.items():
            if not name.startswith("history.") and not tensor.isfinite().all():
                return "finite weights and moments, but they are not"
        if self._health is None or self.step == 0:
            return None
        return self._health.fault(self._decoders())

    def _decoders(self) -> tuple[Decode, Decode]:
        """The decoder as it is trained, and with the averaged weights."""

        def current(latent: Tensor, image: Tensor, mask: Tensor) -> Tensor:
            with autocast(self.device, self.recipe):
                return raw_decode(self.vae, latent, image, mask)

        def averaged(latent: Tensor, image: Tensor, mask: Tensor) -> Tensor:
            with self.averaged() as vae:
                return raw_decode(vae, latent, image, mask)

        return current, averaged

    def _diverged(self, fault: str, *, save: bool = True) -> TrainingError:
        """The error that ends the run, after what is good has been saved."""
        if save:
            try:
                self.save()
            except TrainingError as error:
                return error
        other = ""
        if self.recipe.precision is Precision.FP16:
            other = ", or start a new run in fp32 or bf16"
        return TrainingError(
            f"Expected {fault} (step {self.step}). {self._files.on_disk()} Go on with a lower learning rate{other}."
        )

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
        if self._settings["held_out"] != state.settings.get("held_out"):  # other pictures: not to be compared
            self.history.pop(HELD_OUT, None)
        for step, loss in enumerate(self.history.get(HELD_OUT, []), start=1):
            self.best.count(step, loss)
        if self.best.step is not None:
            best = unpack("best", state.tensors)
            self.best.keep({name: tensor.to(self.average[name]) for name, tensor in best.items()})
        logger.info("Going on at step %d.", self.step)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
