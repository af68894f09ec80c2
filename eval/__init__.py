"""Downstream evaluation: a checkpoint goes in, a record of its score comes out."""
