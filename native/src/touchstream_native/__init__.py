"""The compiled part of Touchstream: its functions are in `fast`, described in `streams/native.py`."""
