"""Records of a run, one file a process: their form, and how they are written.  zray.replay reads them."""
