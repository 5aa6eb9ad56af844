"""Save Asymmetric VQGAN."""

from __future__ import annotations

import contextlib
import itertools
from enum import Enum
from typing import Any

from comfy_api.latest import io, ui

from ..asymvq.autoencoders import LATENT_SPACES
from ..asymvq.checkpoint import save
from .host import CATEGORY, plain_errors
from .load import Precision
from .places import place_below_output
from .vae import AsymmetricVAE


class SaveLayout(str, Enum):
    NATIVE = "native"
    DIFFUSERS = "diffusers"
    ORIGINAL = "original"


AS_LOADED = "as loaded"


class AsymVQSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AsymVQSave",
            display_name="Save Asymmetric VQGAN",
            category=CATEGORY,
            description=(
                "Saves an asymmetric VAE below ComfyUI's output folder, numbered so that nothing is overwritten. Files "
                "in output/vae appear in the loaders."
            ),
            search_aliases=["save vae", "export vae", "vqgan", "diffusers vae"],
            is_output_node=True,
            inputs=[
                io.Vae.Input("vae", tooltip="From Load Asymmetric VQGAN."),
                io.String.Input(
                    "filename_prefix",
                    default="vae/asymmetric",
                    tooltip="Folder and name below ComfyUI's output folder. A number is added to the name.",
                ),
                io.Combo.Input(
                    "layout",
                    options=SaveLayout,
                    default=SaveLayout.NATIVE,
                    tooltip="native: our own file, for Load Asymmetric VQGAN. diffusers: a file with diffusers' names. "
                    "original: with the names of the model's authors, which Load VAE reads, for VAEs without a "
                    "condition.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=Precision,
                    default=Precision.AUTO,
                    tooltip="The precision of the saved weights. auto: as the VAE was loaded.",
                ),
                io.Combo.Input(
                    "latents",
                    options=[AS_LOADED, *LATENT_SPACES],
                    default=AS_LOADED,
                    optional=True,
                    advanced=True,
                    tooltip="The model family that the VAE belongs to. The file keeps its scaling factor, which "
                    "diffusers' pipelines need. as loaded: what the VAE's own file says.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="The path of the file that was written.")],
        )

    @classmethod
    @plain_errors
    def execute(
        cls,
        vae: Any,
        filename_prefix: str,
        layout: str = SaveLayout.NATIVE,
        dtype: str = Precision.AUTO,
        latents: str = AS_LOADED,
    ) -> io.NodeOutput:
        if not isinstance(vae, AsymmetricVAE):
            raise ValueError(
                "Expected a VAE from Load Asymmetric VQGAN, but got one from a stock loader. Save it with VAE Save."
            )
        place = place_below_output(filename_prefix)
        said = None if latents == AS_LOADED else latents
        options: dict[str, Any] = {
            "layout": SaveLayout(layout).value, "dtype": Precision(dtype).dtype, "latents": said, "overwrite": False,
        }  # fmt: skip
        for number in itertools.count(place.counter):
            path = place.folder / f"{place.name}_{number:05}_.safetensors"
            with contextlib.suppress(FileExistsError):  # of another server on this folder
                save(vae.first_stage_model, path, **options)
                break
        text = f"{place.subfolder}/{path.name}" if place.subfolder else path.name
        return io.NodeOutput(str(path), ui=ui.PreviewText(text))
