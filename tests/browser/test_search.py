"""What an artist types to find a node."""

from __future__ import annotations

from .conftest import Frontend

DECODE = "Asymmetric VQGAN Decode (Inpaint)"
WANTED = {
    "inpaint": DECODE,
    "inpaint decode": DECODE,
    "composite original": DECODE,
    "preserve original pixels": DECODE,
    "重绘": DECODE,
    "outpaint": "Crop for Inpainting",
    "seamless": "Harmonise Edit",
}
SEEN = 10
"""Results that the list shows before it is scrolled."""


def test_the_nodes_are_among_the_results_in_view(frontend: Frontend) -> None:
    frontend.open_empty()
    for term, title in WANTED.items():
        options = frontend.search(term)
        options.filter(has_text=title).first.wait_for()
        assert title in [text.split("\n")[0] for text in options.all_inner_texts()][:SEEN], term
