"""Makes asymvq/assets/example.mp4, the video that `video_inpaint` begins with: the bundled portrait, slowly approached.

python tools/build_example_video.py
"""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image

from asymvq.pictures import open_picture

ASSETS = Path(__file__).parents[1] / "asymvq" / "assets"
SIZE, FRAMES, RATE = (624, 360), 81, 16  # as Wan takes them, at three quarters of its 832 × 480
CENTRE = (370.0, 225.0)  # of the portrait, pixels
WIDEST, NARROWEST = 624.0, 500.0
QUALITY = "23"


def main() -> None:
    path = ASSETS / "example.mp4"
    with open_picture(ASSETS / "picture.png") as opened, av.open(str(path), "w") as container:
        picture = opened.convert("RGB")
        stream = container.add_stream("libx264", rate=RATE, options={"crf": QUALITY})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(FRAMES):
            width = WIDEST + (NARROWEST - WIDEST) * number / (FRAMES - 1)
            height = width * SIZE[1] / SIZE[0]
            left, top = (
                min(max(0.0, centre - side / 2), whole - side)
                for centre, side, whole in zip(CENTRE, (width, height), picture.size, strict=True)
            )
            shown = picture.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
            container.mux(stream.encode(av.VideoFrame.from_image(shown)))
        container.mux(stream.encode())
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
