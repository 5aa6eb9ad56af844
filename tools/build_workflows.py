"""Writes the graphs in `workflows/`: what is in them is data, where everything stands is worked out.

    python tools/build_workflows.py

A graph is groups from left to right, a group is stacks of nodes from top to bottom.
"""

from __future__ import annotations

import json
from pathlib import Path

from graph_fragments import (
    BLUE,
    EDIT_NOTE,
    GREEN,
    INPAINT_WIRES,
    KEEP_EXACTLY,
    OFFER,
    ORANGE,
    SAMPLER_15,
    SAMPLER_BY_EXAMPLE,
    SEASCAPE,
    TRAINING,
    VAE_1_5X,
    VIDEO,
    VIOLET,
    around,
    ask,
    by_example,
    compare,
    conditioned_by,
    decode,
    keep,
    large_pictures,
    note,
    paint,
    picture,
    plain,
    put_back,
    stitched,
    unmasked,
)
from graph_layout import graph
from graph_nodes import Group, Node

WORKFLOWS = Path(__file__).parents[1] / "workflows"

GRAPHS: dict[str, list[Group]] = {
    "01_quickstart": [  # hosts list names as the disk gives them: on most, in this order
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download: a portrait, and a seascape that stands in for what a "
                 "diffusion model "
                 "would paint into its background. Its colours are right as they come, so *harmonise* is 0.\n\n## Your "
                 "own picture\nPut *Load Image* in the place of *Demo Pictures*.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto")),
        ])]),
        Group("2 · An edit of the latent", VIOLET, [(340, [
            Node("source", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "vae"}, "Encode the portrait"),
            Node("example", "VAEEncode", 60, (), {"pixels": "pictures.example", "vae": "vae"}, "Encode the seascape"),
            Node("grown", "GrowMask", 90, (8, True), {"mask": "pictures.mask"}, "Grow the mask for the edit"),
            Node("edited", "LatentCompositeMasked", 170, (0, 0, False),
                 {"destination": "source", "source": "example", "mask": "grown"}, "Edit inside the mask"),
        ])]),
        Group("3 · Decode", GREEN, [(340, [
            plain("edited", "vae", "Plain decode"),
            keep("edited", "pictures.picture", "pictures.mask", harmonise=0.0),  # the seascape's colours are right
        ])]),
        compare("4 · Compare and save", "plain decode", "with picture and mask", "quickstart", "pictures.picture",
                "pictures.mask"),
    ],
    "outpainting": [
        Group("1 · Picture and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download: a portrait is widened by 256 pixels on the right. A "
                 "seascape stands "
                 "in for what a diffusion model would paint there.\n\n## Your own\nSet *left, top, right, bottom* on "
                 "*Crop for Inpainting*; put *Load Image* in the place of *Demo Pictures*, and your sampler in "
                 "the place "
                 "of group 3.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto")),
        ])]),
        Group("2 · Widen", VIOLET, [(340, [
            around(("width and height", 512, 512), "pictures.picture", None, expand=(0, 0, 256, 0), grow=16),
        ])]),
        Group("3 · An edit of the latent", VIOLET, [(340, [
            Node("source", "VAEEncode", 60, (), {"pixels": "part.image", "vae": "vae"}, "Encode the part"),
            Node("scaled", "ImageScale", 160, ("lanczos", 512, 512, "center"), {"image": "pictures.example"}),
            Node("example", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}, "Encode the seascape"),
            Node("edited", "LatentCompositeMasked", 170, (0, 0, False),
                 {"destination": "source", "source": "example", "mask": "part.mask"}, "Edit inside the mask"),
        ])]),
        Group("4 · Decode", GREEN, [(340, [keep("edited", "part.image", "part.mask")])]),
        stitched("outpainting", 5),
    ],
    "inpainting_sdxl": [
        Group("1 · Models", BLUE, [(400, [
            note("## File\n**sd_xl_base_1.0.safetensors** → *models/checkpoints*\n\n" + OFFER + "\n\n## Any SDXL model "
                 "will do\nIts own VAE cannot be shown the kept pixels: the decode harmonises what it draws and "
                 "puts it "
                 "into your picture.", "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd_xl_base_1.0.safetensors",)),
            Node("soft", "DifferentialDiffusion", 60, (1.0,), {"model": "checkpoint"}),
        ])]),
        picture("SDXL likes about one million pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a meadow of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            Node("source", "VAEEncode", 60, (), {"pixels": "picture", "vae": "checkpoint.VAE"}),
            Node("masked", "SetLatentNoiseMask", 60, (), {"samples": "source", "mask": "picture.MASK"}),
        ])]),
        paint("4 · Paint", (1, "randomize", 25, 6.0, "dpmpp_2m", "karras", 0.9), {
            "model": "soft", "positive": "positive", "negative": "negative", "latent_image": "masked",
        }),
        Group("5 · Decode", GREEN, [(340, [
            plain("sampler", "checkpoint.VAE", "Plain decode"),
            Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY, {
                "samples": "sampler", "vae": "checkpoint.VAE", "image": "picture", "mask": "picture.MASK",
            }),
        ])]),
        compare("6 · Compare and save", "plain decode", "kept and harmonised", "sdxl", "picture", "picture.MASK"),
    ],
    "inpainting_z_image": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**z_image_turbo_bf16.safetensors** → "
                 "*models/diffusion_models*\n\n**qwen_3_4b.safetensors** → "
                 "*models/text_encoders*\n\n**ae.safetensors**, **asuka_decoder.ckpt** → *models/vae*\n\n" + OFFER +
                 " Z-Image has FLUX.1's VAE, so that ASUKA's decoder reads its latents; it was trained with "
                 "FLUX.1 Fill: "
                 "see for yourself.", "Start here"),
            Node("model", "UNETLoader", 90, ("z_image_turbo_bf16.safetensors", "default")),
            Node("shifted", "ModelSamplingAuraFlow", 60, (3.0,), {"model": "model"}),
            Node("clip", "CLIPLoader", 110, ("qwen_3_4b.safetensors", "lumina2", "default")),
            Node("flux_vae", "VAELoader", 60, ("ae.safetensors",), title="The model's own VAE, to compare with"),
            Node("vae", "AsymVQLoader", 195, ("asuka_decoder.ckpt", "ae.safetensors", "auto")),
        ])]),
        picture("Z-Image likes about one million pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a meadow of wild flowers behind the girl, soft daylight", "clip", "What you want"),
            Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
            Node("source", "VAEEncode", 60, (), {"pixels": "picture", "vae": "vae"}),
            Node("masked", "SetLatentNoiseMask", 60, (), {"samples": "source", "mask": "picture.MASK"}),
        ])]),
        paint("4 · Paint", (1, "randomize", 8, 1.0, "res_multistep", "simple", 0.95), {
            "model": "shifted", "positive": "positive", "negative": "nothing", "latent_image": "masked",
        }),
        decode("flux_vae", "Plain decode: the model's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "z_image", "picture", "picture.MASK"),
    ],
    "edit_flux2_klein": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**flux-2-klein-4b-fp8.safetensors** → "
                 "*models/diffusion_models*\n\n**qwen_3_4b.safetensors** → "
                 "*models/text_encoders*\n\n**flux2-vae.safetensors** → *models/vae*\n\n" + OFFER + EDIT_NOTE,
                 "Start here"),
            Node("model", "UNETLoader", 90, ("flux-2-klein-4b-fp8.safetensors", "default")),
            Node("clip", "CLIPLoader", 110, ("qwen_3_4b.safetensors", "flux2", "default")),
            Node("vae", "VAELoader", 60, ("flux2-vae.safetensors",)),
        ])]),
        unmasked(),
        Group("3 · Edit", VIOLET, [
            (380, [
                ask("positive", "Make the pullover blue.", "clip", "What to change"),
                Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
                Node("scaled", "ImageScaleToTotalPixels", 110, ("lanczos", 1.0, 16), {"image": "picture"}),
                Node("source", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}),
                Node("shown", "ReferenceLatent", 60, (), {"conditioning": "positive", "latent": "source"}),
                Node("shown_nothing", "ReferenceLatent", 60, (), {"conditioning": "nothing", "latent": "source"}),
            ]),
            (320, [
                Node("size", "GetImageSize", 110, (), {"image": "scaled"}),
                Node("empty", "EmptyFlux2LatentImage", 110, (1024, 1024, 1),
                     {"width": "size", "height": "size.height"}),
                Node("sigmas", "Flux2Scheduler", 110, (4, 1024, 1024), {"width": "size", "height": "size.height"}),
                Node("noise", "RandomNoise", 90, (1, "randomize")),
                Node("solver", "KSamplerSelect", 60, ("euler",)),
                Node("guider", "CFGGuider", 110, (1.0,), {
                    "model": "model", "positive": "shown", "negative": "shown_nothing",
                }),
                Node("sampler", "SamplerCustomAdvanced", 130, (), {
                    "noise": "noise", "guider": "guider", "sampler": "solver", "sigmas": "sigmas",
                    "latent_image": "empty",
                }),
            ]),
        ]),
        *put_back("flux2_klein"),
    ],
    "edit_qwen": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**qwen_image_edit_2511_fp8mixed.safetensors** → *models/diffusion_models*\n\n"
                 "**qwen_2.5_vl_7b_fp8_scaled.safetensors** → "
                 "*models/text_encoders*\n\n**Qwen-Image-Edit-2511-Lightning-"
                 "4steps-V1.0-bf16.safetensors** → *models/loras*\n\n**qwen_image_vae.safetensors** → *models/vae*\n\n"
                 + OFFER + EDIT_NOTE, "Start here"),
            Node("model", "UNETLoader", 90, ("qwen_image_edit_2511_fp8mixed.safetensors", "default")),
            Node("shifted", "ModelSamplingAuraFlow", 60, (3.1,), {"model": "model"}),
            Node("normed", "CFGNorm", 110, (1.0, False), {"model": "shifted"}),
            Node("fast", "LoraLoaderModelOnly", 90,
                 ("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors", 1.0), {"model": "normed"}),
            Node("clip", "CLIPLoader", 110, ("qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image", "default")),
            Node("vae", "VAELoader", 60, ("qwen_image_vae.safetensors",)),
        ])]),
        unmasked(),
        Group("3 · Edit", VIOLET, [
            (400, [
                Node("scaled", "FluxKontextImageScale", 40, (), {"image": "picture"}),
                Node("source", "VAEEncode", 60, (), {"pixels": "scaled", "vae": "vae"}),
                Node("asked", "TextEncodeQwenImageEditPlus", 200, ("Make the pullover blue.",),
                     {"clip": "clip", "vae": "vae", "image1": "scaled"}, "What to change"),
                Node("unasked", "TextEncodeQwenImageEditPlus", 200, ("",),
                     {"clip": "clip", "vae": "vae", "image1": "scaled"}, "What you don't want"),
                Node("positive", "FluxKontextMultiReferenceLatentMethod", 90, ("index_timestep_zero",),
                     {"conditioning": "asked"}),
                Node("negative", "FluxKontextMultiReferenceLatentMethod", 90, ("index_timestep_zero",),
                     {"conditioning": "unasked"}),
            ]),
            (340, [
                Node("sampler", "KSampler", 270, (1, "randomize", 4, 1.0, "euler", "simple", 1.0), {
                    "model": "fast", "positive": "positive", "negative": "negative", "latent_image": "source",
                }),
            ]),
        ]),
        *put_back("qwen"),
    ],
    "large_photo": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**sd-v1-5-inpainting.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n" + OFFER +
                 "\n\n## Any model will do\nSet *size* on *Crop for Inpainting* to what yours was trained at; "
                 "the photo "
                 "may be as large as you like.", "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd-v1-5-inpainting.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("", "2 · Photo and mask"),
        Group("3 · Crop, say what you want", VIOLET, [
            (340, [around(("megapixels", 0.4, "free"))]),
            (380, [
                ask("positive", "a meadow of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
                ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
                Node("conditioning", "InpaintModelConditioning", 150, (True,), {
                    "positive": "positive", "negative": "negative", "vae": "vae", "pixels": "part.image",
                    "mask": "part.mask",
                }),
            ]),
        ]),
        paint("4 · Paint", SAMPLER_15, {"model": "checkpoint", **INPAINT_WIRES}),
        Group("5 · Decode", GREEN, [(340, [keep("sampler", "part.image", "part.mask")])]),
        stitched("large_photo"),
    ],
    "video_inpaint": [
        Group("1 · Models", BLUE, [(420, [
            note("## Files\n**wan2.1_vace_14B_fp16.safetensors** → *models/diffusion_models*\n\n"
                 "**umt5_xxl_fp8_e4m3fn_scaled.safetensors** → *models/text_encoders*\n\n**wan_2.1_vae.safetensors** → "
                 "*models/vae*\n\n**sam3.1_multiplex_fp16.safetensors** → *models/checkpoints*\n\n" + OFFER +
                 " Say in group 2 what is to be replaced, in group 3 by what. Outside the mask every frame stays as it "
                 "was, bit for bit.", "Start here"),
            Node("model", "UNETLoader", 90, ("wan2.1_vace_14B_fp16.safetensors", "default")),
            Node("shifted", "ModelSamplingSD3", 60, (5.0,), {"model": "model"}),
            Node("clip", "CLIPLoader", 110, ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan", "default")),
            Node("vae", "VAELoader", 60, ("wan_2.1_vae.safetensors",)),
            Node("finder", "CheckpointLoaderSimple", 110, ("sam3.1_multiplex_fp16.safetensors",),
                 title="Finds what the mask is to cover"),
        ])]),
        Group("2 · Video and masks", VIOLET, [(380, [
            Node("video", "LoadVideo", 300, VIDEO, title="Load your video"),
            Node("parts", "GetVideoComponents", 110, (), {"video": "video"}),
            Node("first", "ImageFromBatch", 90, (0, 81), {"image": "parts"}, "The first 81 frames"),
            Node("frames", "ImageScale", 160, ("lanczos", 832, 480, "center"), {"image": "first"}),
            Node("what", "CLIPTextEncode", 120, ("pullover",), {"clip": "finder.CLIP"}, "What is to be replaced"),
            Node("found", "SAM3_Detect", 210, (0.5, 2, False), {
                "model": "finder", "image": "frames", "conditioning": "what",
            }),
            Node("masks", "GrowMask", 90, (20, True), {"mask": "found"}),
        ])]),
        Group("3 · Paint", VIOLET, [
            (360, [
                Node("not_masked", "InvertMask", 40, (), {"mask": "masks"}),
                Node("grey", "MaskToImage", 40, (), {"mask": "not_masked"}),
                Node("control", "ImageCompositeMasked", 150, (0, 0, True), {
                    "destination": "frames", "source": "grey", "mask": "masks",
                }),
                ask("positive", "a girl in a blue raincoat", "clip", "What you want"),
                ask("negative", "static, blurred details, subtitles, worst quality, deformed", "clip",
                    "What you don't want"),
            ]),
            (340, [
                Node("size", "GetImageSize", 110, (), {"image": "frames"}),
                Node("vace", "WanVaceToVideo", 270, (832, 480, 81, 1, 1.0), {
                    "positive": "positive", "negative": "negative", "vae": "vae", "control_video": "control",
                    "control_masks": "masks", "width": "size", "height": "size.height", "length": "size.batch_size",
                }),
                Node("sampler", "KSampler", 270, (1, "randomize", 20, 6.0, "uni_pc", "simple", 1.0), {
                    "model": "shifted", "positive": "vace", "negative": "vace.negative", "latent_image": "vace.latent",
                }),
                Node("trimmed", "TrimVideoLatent", 60, (0,), {"samples": "sampler", "trim_amount": "vace.trim_latent"}),
            ]),
        ]),
        Group("4 · Decode and save", GREEN, [(420, [
            Node("ours", "AsymVQDecode", 350, KEEP_EXACTLY, {
                "samples": "trimmed", "vae": "vae", "image": "frames", "mask": "masks",
            }),
            Node("joined", "CreateVideo", 110, (16.0, 8), {
                "images": "ours", "audio": "parts.audio", "fps": "parts.fps",
            }),
            Node("", "SaveVideo", 360, ("asymvq/video_inpaint", "auto", "auto"), {"video": "joined"}),
        ])]),
    ],
    "inpainting": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**sd-v1-5-inpainting.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n" + OFFER,
                 "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("sd-v1-5-inpainting.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Stable Diffusion 1.5 likes sides of 512 to 768 pixels."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a meadow of wild flowers, soft daylight, photo", "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            conditioned_by("positive", "negative"),
        ])]),
        paint("4 · Paint", SAMPLER_15, {"model": "checkpoint", **INPAINT_WIRES}),
        decode("checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "inpainting", "picture",
                "picture.MASK"),
    ],
    "inpainting_flux_fill": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**flux1-fill-dev.safetensors** → *models/diffusion_models*\n\n**clip_l.safetensors**, "
                 "**t5xxl_fp8_e4m3fn_scaled.safetensors** → *models/text_encoders*\n\n**ae.safetensors**, "
                 f"**asuka_decoder.ckpt** → *models/vae*\n\n{OFFER} ASUKA's decoder for FLUX sees your picture; what "
                 "encodes the picture comes from FLUX's own VAE, named in *base_vae*.", "Start here"),
            Node("model", "UNETLoader", 90, ("flux1-fill-dev.safetensors", "default")),
            Node("clip", "DualCLIPLoader", 140,
                 ("clip_l.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors", "flux", "default")),
            Node("flux_vae", "VAELoader", 80, ("ae.safetensors",), title="FLUX's own VAE, to compare with"),
            Node("vae", "AsymVQLoader", 195, ("asuka_decoder.ckpt", "ae.safetensors", "auto")),
        ])]),
        picture("FLUX likes about one million pixels, such as 1024 × 1024."),
        Group("3 · Say what you want", VIOLET, [(380, [
            ask("positive", "a meadow of wild flowers behind the girl, soft daylight", "clip", "What you want"),
            Node("guided", "FluxGuidance", 60, (30.0,), {"conditioning": "positive"}),
            Node("nothing", "ConditioningZeroOut", 40, (), {"conditioning": "positive"}),
            conditioned_by("guided", "nothing"),
        ])]),
        paint("4 · Paint", (1, "randomize", 20, 1.0, "euler", "normal", 1.0), {"model": "model", **INPAINT_WIRES}),
        decode("flux_vae", "Plain decode: FLUX's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "flux_fill", "picture",
                "picture.MASK"),
    ],
    "paint_by_example": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**model.safetensors**, Paint by Example (5.2 GB, licence CreativeML OpenRAIL-M) → "
                 "*models/checkpoints*\n\n**diffusion_pytorch_model.safetensors**, the asymmetric VAE 1.5x → "
                 "*models/vae*\n\nMany files have these names: if you give them better ones, choose those below. "
                 + OFFER, "Start here"),
            Node("loader", "AsymVQPaintByExampleLoader", 150, ("model.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        picture("Paint by Example is at its best at 512 × 512 and near it; for large pictures there is group 7."),
        Group("3 · Example", VIOLET, [(380, [
            Node("example", "LoadImage", 380, SEASCAPE, title="Load the example"),
            by_example("conditioning", "picture", "picture.MASK"),
        ])]),
        paint("4 · Paint", SAMPLER_BY_EXAMPLE, {"model": "loader", **INPAINT_WIRES}),
        decode("loader.VAE", "Plain decode: the checkpoint's own VAE"),
        compare("6 · Compare and save", "plain decode", "with picture and mask", "paint_by_example", "picture",
                "picture.MASK"),
        large_pictures(),
    ],
    "text_to_image": [
        Group("1 · Models", BLUE, [(400, [
            note("## Files\n**v1-5-pruned-emaonly-fp16.safetensors** → *models/checkpoints*\n\n" + VAE_1_5X + "\n\n"
                 + OFFER, "Start here"),
            Node("checkpoint", "CheckpointLoaderSimple", 110, ("v1-5-pruned-emaonly-fp16.safetensors",)),
            Node("vae", "AsymVQLoader", 195, ("diffusion_pytorch_model.safetensors", "none", "auto")),
        ])]),
        Group("2 · Say what you want", VIOLET, [(380, [
            ask("positive", "portrait of a woman in a flower garden, freckles, detailed eyes, natural light, photo",
                "checkpoint.CLIP", "What you want"),
            ask("negative", "blurry, text, watermark", "checkpoint.CLIP", "What you don't want"),
            Node("empty", "EmptyLatentImage", 120, (512, 512, 1), title="Size of the picture"),
        ])]),
        paint("3 · Paint", SAMPLER_15,
              {"model": "checkpoint", "positive": "positive", "negative": "negative", "latent_image": "empty"}),
        Group("4 · Decode", GREEN, [(340, [
            plain("sampler", "checkpoint.VAE", "Plain decode: the checkpoint's own VAE"),
            Node("ours", "VAEDecode", 60, (), {"samples": "sampler", "vae": "vae"}, "Decode with the asymmetric VAE"),
        ])]),
        Group("5 · Compare and save", ORANGE, [
            (420, [Node("", "PreviewImage", 440, (), {"images": "plain"}, "Checkpoint's VAE")]),
            (420, [Node("", "SaveImage", 460, ("asymvq/text_to_image",), {"images": "ours"}, "Asymmetric VAE")]),
        ]),
    ],
    "train_decoder": [
        Group("1 · Pictures and VAE", BLUE, [(360, [
            note("## Press Run\nNothing to download. The small demo VAE is trained a little further on one picture: "
                 "some minutes without a GPU.\n\n**In earnest:** put some hundred pictures in a folder in ComfyUI's "
                 "*input* folder and choose it in the training node. Take a *Load VAE* node with the VAE of your "
                 "model in the place of the demo VAE: SD1.5, SDXL, SD3 or FLUX.", "Start here"),
            Node("pictures", "AsymVQDemoPictures", 90),
            Node("vae", "AsymVQLoader", 195, ("demo (bundled)", "none", "auto"), title="The VAE to start from"),
        ])]),
        Group("2 · Train", VIOLET, [(420, [
            note("**preset** is the decoder's size: *2x* keeps most and is the slowest. **steps**: some thousand in "
                 "earnest. **recipe**: *quick* is the usual one; it fetches a file of 0.5 GB, once. *fidelity* needs "
                 "none.\n\n**Interrupt** saves. Run again to go on, tomorrow too. The file is written to "
                 "*output/vae* and shows up in the loaders.", "What to set"),
            Node("train", "AsymVQTrain", 1010, TRAINING, {"vae": "vae", "images": "pictures.example"}),
        ])]),
        Group("3 · Look", GREEN, [(400, [
            note("The loss falls, or the learning rate is wrong. Below, a picture that was not trained on is encoded "
                 "and decoded: once plainly, once with its pixels and a mask like those of the training. **keep** is "
                 "*network*, to see what the decoder does by itself.", "What it shows"),
            Node("", "AsymVQLossPlot", 390, ("Training loss", 960, 480), {"loss_map": "train.loss_map"}),
            Node("mask", "AsymVQRandomMask", 180, (0, "fixed", 640, 424, 1, 1.0), title="A mask of the picture's size"),
            Node("encoded", "VAEEncode", 60, (), {"pixels": "pictures.picture", "vae": "train"}),
            plain("encoded", "train", "Decode without the picture"),
            Node("ours", "AsymVQDecode", 350, ("network", *KEEP_EXACTLY[1:]), {
                "samples": "encoded", "vae": "train", "image": "pictures.picture", "mask": "mask",
            }, "Decode with picture and mask"),
        ])]),
        Group("4 · Compare", ORANGE, [
            (560, [
                note("Nothing was repainted, so the whole picture should come back: *all pixels* compares everything. "
                     "Small numbers are good.", "What to expect"),
                Node("", "AsymVQCompare", 900, ("without\nwith picture and mask", "all pixels", 10.0, False), {
                    "reference": "pictures.picture", "results.result_1": "plain", "results.result_2": "ours",
                    "mask": "mask",
                }),
            ]),
        ]),
    ],
}  # fmt: skip


def main() -> None:
    for name, groups in GRAPHS.items():
        text = json.dumps(graph(name, groups), indent=1, ensure_ascii=False)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
