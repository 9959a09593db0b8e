"""Audio and video files: decoding, writing, mixing, corruption, and where files lie."""
