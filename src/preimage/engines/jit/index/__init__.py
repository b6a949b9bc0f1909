"""Which positions and taps meet, how tiles cover them, how a call is cut: index sets, no code."""
