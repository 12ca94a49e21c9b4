"""Which threshold to take, from a few prompts: `exposure` is the model, `calibration` draws and keeps the streams."""
