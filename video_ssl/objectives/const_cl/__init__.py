"""ConST-CL: two clips of a video attract as wholes, and regions of one are foretold from the other (flax)."""
