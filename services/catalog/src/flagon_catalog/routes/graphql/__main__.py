"""Print the schema: `python -m flagon_catalog.routes.graphql > schema.graphql`."""

import sys

from . import schema

sys.stdout.write(schema().as_str() + "\n")
