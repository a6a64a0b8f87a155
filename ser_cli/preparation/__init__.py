"""From recordings, wherever they lie, to one store of waveforms that training reads: `ser prepare`."""
