"""Captures -> shards of latents; the pipeline that feeds training."""
