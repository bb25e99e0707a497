"""Predicted masks against reference masks: scores, intervals, reports. Reads both, predicts nothing."""
