"""How a system says that there is no room: the disk is full, a quota is used up, a file is as long as one may be."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
