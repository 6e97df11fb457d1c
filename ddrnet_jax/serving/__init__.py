"""A network in the browser and over HTTP: a page to try it, and POST /predict for programs."""
