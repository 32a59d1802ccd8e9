"""From a catalogue to a frozen scene list whose pixels can be believed."""
