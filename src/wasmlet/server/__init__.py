"""What others may ask of this agent.

- `local`, `hub`: the terminal's API on a Unix socket in the state directory; news of pods for watchers. `statuses` of
  errors, here and there
- `kubelet`: the kubelet's HTTPS API, with its door (`listening`, `tls`, `serving_files`), who comes
  (`authentication`), what they may (`authorization`; both ask by `reviews`, and remember in `caching`), and one verb a
  file: `logs` (with `log_files`, `log_options`, `log_output`, `changes`), `pods`, `health`, `configz`,
  `summary`
"""
