"""What one does with a finished run, and a walk through the encoder: python -m tools.NAME"""
