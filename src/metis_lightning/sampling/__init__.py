"""The mask-predict loop that both stages share."""
