"""A plugin of a run whose verdict is looked at alone: no panel is made and no document.

``--report`` would make both, which takes longer than the judging.
"""

from __future__ import annotations

import os
from pathlib import Path

from persona_lib.commands import options

options.choose_report = lambda _: Path(os.environ["FLATLAND_VERDICT"])
