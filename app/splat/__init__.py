"""What a splat is: files, statistics, repairs, cameras, pictures. Knows no network and no HTTP."""
