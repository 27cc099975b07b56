"""Jobs of the built-in models on a GPU, against the same models fed from the device itself."""
