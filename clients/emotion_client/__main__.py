"""Run `python -m emotion_client`, which is the `emotion-client` command."""

import sys

from emotion_client.cli import main

sys.exit(main())
