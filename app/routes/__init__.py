"""One file per group of routes: thin edges over the gateway."""
