from .cli import main

main(prog_name="musiq-export")
