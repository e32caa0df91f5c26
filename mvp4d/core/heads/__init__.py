"""Head models and their skinning: `load_head("builtin" | "ict:PATH" | "flame:PATH")`."""

from __future__ import annotations

from mvp4d.core.arguments import checked
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel


@checked
def load_head(spec: str) -> HeadModel:
    """Reads a head model.

    Args:
      spec: `builtin`; `ict:PATH` with an ICT-FaceKit folder (FaceXModel) or a packed npz; `flame:PATH` with a FLAME
        pickle or npz (2020, 2023, 2023 without jaw). `flame:PATH?teeth`, `?mouth` and `?mouth,jaw` add the meshes that
        make 5143, 5223 and 5423 vertices of FLAME's 5023.

    Raises:
      UserError: the spec is none of these, or the file is not what it says.
    """
    kind, _, rest = str(spec).partition(":")
    # Imported on use: reading a FLAME file must not build the builtin head.
    if kind == "builtin" and not rest:
        from mvp4d.core.heads.builtin import build_builtin_head

        return build_builtin_head()
    if kind == "ict" and rest:
        from mvp4d.core.heads.ict import load_ict

        return load_ict(rest)
    if kind == "flame" and rest:
        from mvp4d.core.heads.flame import load_flame

        path, _, additions = rest.partition("?")
        return load_flame(path, additions=tuple(item for item in additions.split(",") if item))
    raise UserError("`head`", f"'{spec}' is not a head model", "use builtin, ict:PATH or flame:PATH")


__all__ = ["HeadModel", "load_head"]
