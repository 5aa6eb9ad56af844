"""`python -m asymvq`: the command line.

Each subcommand is a module of this package with `run(args)`. It is imported when it is called, so that the parser does
not wait for torch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..losses import LOSSES, settings_of
from ..outputs import ExistsError

PROG = "python -m asymvq"
BAD_INPUT, INTERRUPTED = 2, 130
HELP_COLUMN = 24
"""Where argparse begins the words on an argument."""
MASK_HELP = "white, transparent in a picture, or painted on a transparent layer"


class Interrupted(Exception):
    """A subcommand was stopped by the user and has saved its work; the message says how to go on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        The exit status: 0, 2 after bad input (with one line on stderr), 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    try:
        _run(args)
    except ExistsError as error:
        print(f"asymvq: error: {_one_line(error)} To overwrite it, add --overwrite.", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError) as error:
        print(f"asymvq: error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except Interrupted as interruption:
        print(f"asymvq: {interruption}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("asymvq: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(args: argparse.Namespace) -> None:
    """Each is imported here only; by its name, since scanners of the registry take a computed one for an attack."""
    if args.command == "change-mask":
        from . import change_mask as command
    elif args.command == "convert":
        from . import convert as command
    elif args.command == "decode":
        from . import decode as command
    elif args.command == "demo":
        from . import demo as command
    elif args.command == "encode":
        from . import encode as command
    elif args.command == "evaluate":
        from . import evaluate as command
    elif args.command == "harmonise":
        from . import harmonise as command
    elif args.command == "info":
        from . import info as command
    else:
        from . import train as command
    command.run(args)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG, description="Inpainting that keeps the pixels you did not mask: asymmetric VQGAN decoders."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _add(commands, "demo", "edit a picture with the bundled VAE and compare the decoders")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: this one)")
    _add_overwrite(demo, "write demo.png and demo.json anew (default: a number is added to the names)")
    demo.add_argument("--image", type=Path, metavar="PICTURE", help="source picture instead of the bundled one")
    demo.add_argument("--example", type=Path, metavar="PICTURE", help="picture that is blended in under the mask")
    demo.add_argument("--mask", type=Path, metavar="PICTURE", help=f"what is edited: {MASK_HELP}")
    demo.add_argument("--vae", type=Path, metavar="FILE", help="asymmetric VAE instead of the bundled one")
    demo.add_argument(
        "--seed", type=int, default=0, help="of the random mask that is drawn for an --image without a --mask"
    )

    info = _add(commands, "info", "say what a checkpoint is")
    info.add_argument("file", type=Path, metavar="FILE")
    info.add_argument("--json", action="store_true", help="for machines")

    convert = _add(commands, "convert", "write a checkpoint in another layout or precision")
    convert.add_argument("input", type=Path, metavar="IN")
    convert.add_argument("output", type=Path, metavar="OUT")
    convert.add_argument(
        "--layout", choices=["native", "diffusers", "original"], required=True,
        help="our own; diffusers'; or the model's authors', which ComfyUI's own loaders read",
    )  # fmt: skip
    _add_base_vae(
        convert,
        "; with other layouts of a video VAE's one frame: the file that it came from, whose joining of frames is kept",
    )
    _add_dtype(convert, "of the weights (default: as they are)")
    convert.add_argument(
        "--latents", metavar="NAME",
        help="whose latents these are, where the file does not tell (sd, sdxl, sd3, flux): diffusers' config needs "
        "their scaling factor",
    )  # fmt: skip
    convert.add_argument(
        "--scaling-factor", type=float, metavar="X", help="of other latents: what pipelines multiply them by"
    )
    convert.add_argument("--shift-factor", type=float, metavar="X", help="what they subtract first (default: nothing)")
    _add_overwrite(convert)

    encode = _add(commands, "encode", "picture to latent")
    encode.add_argument("--vae", type=Path, required=True, metavar="FILE")
    _add_base_vae(encode)
    encode.add_argument("--image", type=Path, required=True, metavar="PICTURE")
    encode.add_argument(
        "--out", type=Path, required=True, metavar="LATENT", help=".latent (as ComfyUI saves) or .safetensors"
    )
    _add_overwrite(encode)
    _add_tile(encode)
    _add_device(encode)
    _add_dtype(encode, "to encode in (default: the file's; float32 for small VAEs and on a CPU)")

    decode = _add(commands, "decode", "latent to picture, keeping what the mask does not cover")
    decode.add_argument("--vae", type=Path, required=True, metavar="FILE")
    _add_base_vae(decode)
    decode.add_argument("--latent", type=Path, required=True, metavar="LATENT", help=".latent or .safetensors")
    decode.add_argument(
        "--out", type=Path, required=True, metavar="PNG",
        help="with the bits (8 or 16), alpha, colour profile, resolution and EXIF data of --image",
    )  # fmt: skip
    _add_overwrite(decode)
    decode.add_argument("--image", type=Path, metavar="PICTURE", help="source picture, together with --mask")
    decode.add_argument("--mask", type=Path, metavar="PICTURE", help=f"what was edited: {MASK_HELP}")
    decode.add_argument(
        "--keep", choices=["exact", "network"], default="exact",
        help="kept pixels: the source's own (default), or what the network makes of them",
    )  # fmt: skip
    decode.add_argument(
        "--harmonise", type=_share, default=0.0, metavar="X",
        help="0 to 1: how far the edit's colours and light continue the kept ones (default: 0)",
    )  # fmt: skip
    decode.add_argument(
        "--noise-mask", action="store_true",
        help="the latent was made with a noise mask: --harmonise then goes by the mask's surroundings, if need be",
    )  # fmt: skip
    decode.add_argument(
        "--video", action="store_true",
        help="the latents are frames of one video, in their order: --harmonise keeps colours and light steady",
    )  # fmt: skip
    _add_tile(decode)
    _add_device(decode)
    _add_dtype(decode, "to decode in (default: the file's; float32 for small VAEs and on a CPU)")

    _add_harmonise(commands)
    _add_change_mask(commands)
    _add_train(commands)
    _add_evaluate(commands)
    return parser


def _add_harmonise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    harmonise = _add(commands, "harmonise", "put an edited picture into its source, its colours and light fitted to it")
    harmonise.add_argument("--image", type=Path, required=True, metavar="PICTURE", help="source picture")
    harmonise.add_argument("--edited", type=Path, required=True, metavar="PICTURE", help="of the source's size")
    harmonise.add_argument("--mask", type=Path, required=True, metavar="PICTURE", help=f"what was edited: {MASK_HELP}")
    harmonise.add_argument(
        "--out", type=Path, required=True, metavar="PNG",
        help="with the bits (8 or 16), alpha, colour profile, resolution and EXIF data of --image",
    )  # fmt: skip
    harmonise.add_argument("--strength", type=_share, default=1.0, metavar="X", help="0 (paste only) to 1 (default: 1)")
    _add_overwrite(harmonise)


def _add_change_mask(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    change = _add(commands, "change-mask", "find what an edit changed on purpose: a mask, white where it did")
    change.add_argument("--image", type=Path, required=True, metavar="PICTURE", help="source picture")
    change.add_argument("--edited", type=Path, required=True, metavar="PICTURE", help="of the source's size")
    change.add_argument("--out", type=Path, required=True, metavar="PNG")
    change.add_argument(
        "--align", action="store_true",
        help="lay the edit over the source first: it may be shifted, zoomed, turned a little and of another size",
    )  # fmt: skip
    change.add_argument(
        "--vae", type=Path, metavar="FILE",
        help="the one that the edit was decoded with: what it does to colours and detail by itself does not count",
    )  # fmt: skip
    _add_base_vae(change)
    _add_device(change)
    change.add_argument(
        "--sensitivity", type=_share, default=0.5, metavar="X", help="0 (beyond doubt) to 1 (faint too) (default: 0.5)"
    )
    change.add_argument("--grow", type=_pixels, default=8, metavar="N", help="pixels to grow the mask by (default: 8)")
    change.add_argument(
        "--feather", type=_pixels, default=8, metavar="N", help="pixels over which its edge is soft (default: 8)"
    )
    _add_overwrite(change)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = _add(commands, "train", "train a conditional decoder for a VAE on a folder of pictures")
    train.formatter_class = argparse.RawDescriptionHelpFormatter
    train.epilog = _losses()
    train.add_argument(
        "--base", type=Path, required=True, metavar="VAE", help="VAE to start from: a file, or a diffusers folder"
    )
    train.add_argument(
        "--preset", default="base", metavar="SIZE",
        help='size of the decoder against --base: base (default), 1.5x or 2x as in the paper, or a width factor and '
        'added blocks, e.g. "1.25x+2"',
    )  # fmt: skip
    train.add_argument(
        "--data", type=Path, metavar="DIR",
        help="pictures, also in folders below (not needed for --steps 0, unless a fractional width needs some)",
    )  # fmt: skip
    train.add_argument(
        "--held-out", type=Path, metavar="DIR",
        help="pictures to measure on, which decide what is saved (default: a twentieth of --data: --set held_out=0.05)",
    )  # fmt: skip
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help=".safetensors to write")
    _add_overwrite(train, "replace --out, whatever it is, and without --resume an earlier run of that name")
    train.add_argument(
        "--condition", choices=["affine", "blend"],
        help="how kept pixels enter the decoder: affine starts as the stock decoder; blend is the paper's (default: "
        "the run's that is resumed, else the base's own, else the recipe's, which is affine but for paper)",
    )  # fmt: skip
    train.add_argument(
        "--condition-width", type=int, metavar="N",
        help="channels of an affine condition's maps; more let it learn more, and a decode takes longer "
        "(default: the run's or the base's own, else 64, or 32 for decoders that are narrow themselves)",
    )  # fmt: skip
    train.add_argument(
        "--condition-fades", action="store_true",
        help="from now on, an affine condition is shown what harmonising changes only as far as kept pixels tell, so "
        "that farther in the decode is the plain one (default: as the run's or the base's own, else all over the mask)",
    )  # fmt: skip
    train.add_argument(
        "--condition-fits", action="store_true",
        help="from now on, an affine condition also corrects edited pixels by what the plain decode gets wrong on the "
        "same picture's kept ones, which takes texture away that the VAE invents (default: as the run's or the base's "
        "own, else not)",
    )  # fmt: skip
    train.add_argument("--recipe", choices=["quick", "paper", "fidelity"], default="quick", help="(default: quick)")
    train.add_argument("--steps", type=int, metavar="N", help="0: write the larger decoder without training it")
    train.add_argument("--batch", type=int, metavar="N", help="pictures a step and device")
    train.add_argument("--crop", type=int, metavar="N", help="side of the training pictures in pixels")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="any other setting of the recipe, repeatable; those of the losses stand below",
    )  # fmt: skip
    train.add_argument("--resume", action="store_true", help="go on with the run that writes --out, if there is one")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cuda (default where there is one), cuda:1, mps, cpu")
    train.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], help="precision of the forward pass (default fp32)")
    train.add_argument("--log-dir", type=Path, metavar="DIR", help="log for TensorBoard")
    train.add_argument("--save-minutes", type=float, default=10.0, metavar="N", help="between two saves (default: 10)")
    train.add_argument("--save-steps", type=int, metavar="N", help="also save every so many steps")


def _losses() -> str:
    """Their settings, as a list for `--help`."""
    width = shutil.get_terminal_size().columns - 2
    lines = ["losses: settings for --set, with the values of recipe quick"]
    for setting in settings_of(LOSSES):
        name = f"  {setting.name}={setting.default}"
        text = f"{name:<{HELP_COLUMN}}{setting.text}"
        if len(name) + 2 > HELP_COLUMN:
            lines, text = [*lines, name], " " * HELP_COLUMN + setting.text
        lines += textwrap.wrap(text, width, subsequent_indent=" " * HELP_COLUMN, drop_whitespace=True)
    return "\n".join(lines)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = _add(
        commands, "evaluate", "compare decoders on your pictures, with a stock decode pasted back as baseline"
    )
    evaluate.add_argument(
        "--vae", type=Path, action="append", metavar="FILE",
        help="repeat for several (default: the bundled one). The first stock VAE, else the first VAE, is the baseline",
    )  # fmt: skip
    evaluate.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR", help="folders or pictures")
    masks = evaluate.add_mutually_exclusive_group(required=True)
    masks.add_argument("--masks", type=Path, metavar="DIR", help="holds a mask of each picture's name: white is edited")
    masks.add_argument("--random-masks", type=int, metavar="SEED", help="thick strokes and boxes, as in the paper")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report and the pictures")
    _add_overwrite(evaluate)
    evaluate.add_argument("--masks-per-picture", type=_count, default=1, metavar="N", help="of the random ones")
    evaluate.add_argument("--size", type=_count, metavar="N", help="cut pictures to squares, resized to this side")
    evaluate.add_argument(
        "--latents", type=Path, metavar="DIR", help="edited latents to decode, by the pictures' names"
    )
    evaluate.add_argument(
        "--colour-shift", type=float, default=0.0, metavar="X",
        help="shift each picture's colours by up to X (of 2) before encoding, as diffusion models do",
    )  # fmt: skip
    evaluate.add_argument(
        "--shift-kind", choices=["global", "varying", "noise-mask", "noise-mask-varying"], default="global",
        help="everywhere alike (default), linearly over the picture, or either in the mask's latent cells alone",
    )  # fmt: skip
    evaluate.add_argument("--round-trips", type=_count, default=0, metavar="N", help="measure what N of them pile up")
    evaluate.add_argument("--lpips", action="store_true", help="needs the extra 'metrics' and VGG's weights")
    evaluate.add_argument("--fid", action="store_true", help="needs the extra 'metrics' and Inception's weights")
    evaluate.add_argument("--paper", action="store_true", help="at 224², beside the published table's numbers")
    _add_device(evaluate)
    _add_dtype(evaluate, "to decode in (default: the file's; float32 for small VAEs and on a CPU)")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but got {number}")
    return number


def _pixels(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, but got {number}")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, but got {text}")
    return number


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")


def _add_base_vae(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--base-vae", type=Path, metavar="FILE",
        help=f"for a decoder without an encoder: the VAE that it was made for, or its encoder's file{more}",
    )  # fmt: skip


def _add_overwrite(parser: argparse.ArgumentParser, summary: str = "replace files that exist") -> None:
    parser.add_argument("--overwrite", action="store_true", help=summary)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, …")


def _add_tile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tile", type=int, metavar="N", help="side of a tile in pixels (default: no tiles while memory lasts)"
    )
    parser.add_argument("--overlap", type=int, metavar="N", help="of neighbouring tiles (default: a quarter tile)")


def _add_dtype(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help=f"precision {summary}")


def _one_line(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
