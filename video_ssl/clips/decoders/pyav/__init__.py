"""The default decoder, and the reference for every other one."""
