"""Readers of other libraries: PyAV says what index i is, the library gives the picture."""
