"""The model card: README.md of the model directory, made from nothing but the files of a run directory."""
