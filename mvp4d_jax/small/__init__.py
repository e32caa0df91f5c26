"""What only the built-in weights need: models of a few million parameters, trained on a few hundred drawn people.

MVP4D has none of it, and `configs/mvp4d_2b.py` uses none of it. A config asks for each part by one field:

  `conditioning.painted`                         `painting`: the photo painted onto the head, as further maps
  `transformer.skip_width`, `.detail_width`      `models.short_paths`: past attention; inside the transformer
  `prepare.colours`                              `recolour`: every capture in other colours too, where people are few
"""
