"""prepare in two passes: `cut` (everything without the autoencoder, kept on disk), `encode` (from what was kept)."""
import sys, hashlib, os
import numpy as np
from pathlib import Path
mode, rest = sys.argv[1], sys.argv[2:]
from mvp4d_jax.data import prepare as P
CUTS = Path('/work/run/cuts'); CUTS.mkdir(exist_ok=True)
original = P._Encoder._cut
def file_of(capture, view, frames, box, scenes):
    key = f"{P._scene_name(capture)} {view} {frames} {np.asarray(box, np.float64).tolist()}"
    return CUTS / capture.path.name / (hashlib.sha256(key.encode()).hexdigest()[:20] + '.npz')
def cut(self, capture, view, frames, box):
    place = (view, frames, tuple(box))
    if place in self._drawn: return self._drawn[place]
    f = file_of(capture, view, frames, box, 0)
    if f.is_file():
        with np.load(f) as d: made = P._Cut(d['pictures'], d['maps'], d['painted'])
        self._drawn[place] = made
        return made
    assert mode == 'cut', f
    made = original(self, capture, view, frames, box)
    f.parent.mkdir(exist_ok=True)
    np.savez(str(f) + '.tmp.npz', pictures=made.pictures, maps=made.maps, painted=made.painted); os.replace(str(f) + '.tmp.npz', f)
    return made
P._Encoder._cut = cut
if mode == 'cut':
    def latents(self, video):
        b, F, S = video.shape[:3]
        return np.zeros((b, 1 + (F - 1) // 2, S // 4, S // 4, 24), np.float16)
    P._Encoder._latents = latents
    photo = P._photo_colours
    # keep the colours too
    def colours(capture, images, look):
        f = CUTS / capture.path.name / f"colours{look.suffix or '~0'}.npy"; f.parent.mkdir(exist_ok=True)
        c = photo(capture, images, look); np.save(f, c); return c
    P._photo_colours = colours
else:
    P._photo_colours = lambda capture, images, look: np.load(CUTS / capture.path.name / f"colours{look.suffix or '~0'}.npy")
from mvp4d_jax.cli import main
sys.exit(main(['prepare', *rest]))
