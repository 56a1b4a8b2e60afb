"""HiCo and HiCo++: visual consistency of near clips, topical consistency of all clips of an untrimmed video."""
