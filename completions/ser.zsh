#compdef ser

_ser_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _SER_COMPLETE=complete_zsh ser)
}

compdef _ser_completion ser
