"""`python -m emotion_client`: the same as the `emotion-client` command."""

import sys

from emotion_client.cli import main

sys.exit(main())
