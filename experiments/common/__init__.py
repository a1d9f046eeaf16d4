"""What every program needs: errors, options, files, the machine, drawing."""
