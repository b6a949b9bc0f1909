"""Pictures of a layer at work, for papers, READMEs and notebooks: SVG, PNG, GIF and animated PNG of the same frames, in one style.

    d = draw.paint(trace)                  the frames: a Drawing (film.py); traces come from preimage.analysis.trace
    d.write("paint.gif"); d.write("paint.svg", frame=3)

slide, paint, gradients      one layer's numbers, step by step                       (layer.py)
matrix, columns, shared      the layer as a matrix and its transpose; im2col         (matrices.py)
taps, groups                 which cells are joined: stride, padding, dilation, ...   (maps.py)
checkerboard, spectrum       how often each cell is met; the frequencies of an output
field                        receptive and projective fields through a net
arrays                       any arrays side by side

Nothing is computed here: the numbers are those of `preimage.analysis`. A drawing of the same numbers has the same bytes: SVG
everywhere, PNG and GIF with the same versions of Pillow and matplotlib.
"""

from preimage.report.draw.film import ENDINGS, Drawing, beside, stacked
from preimage.report.draw.layer import gradients, paint, slide
from preimage.report.draw.maps import arrays, checkerboard, field, groups, spectrum, taps
from preimage.report.draw.matrices import columns, matrix, shared
from preimage.report.draw.parts import refuse_large

__all__ = [
    "ENDINGS",
    "Drawing",
    "arrays",
    "beside",
    "checkerboard",
    "columns",
    "field",
    "gradients",
    "groups",
    "matrix",
    "paint",
    "refuse_large",
    "shared",
    "slide",
    "spectrum",
    "stacked",
    "taps",
]
