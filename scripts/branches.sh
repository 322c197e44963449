#!/usr/bin/env bash
# Makes the branches that the README describes where they are absent, and their protection rules.
set -euo pipefail

readonly RULES=quai

usage() {
  cat <<'TEXT'
Usage: scripts/branches.sh [--push] [--protect] [feature/NAME ...]

Creates main and dev, and the feature branches named (default: feature/setup-ci-cd), where they are
absent here and on origin; what exists is left as it is. main starts at the present commit, dev at
main, a feature at dev.

  --push     push to origin those that it does not have
  --protect  apply the protection rules with 'gh'; without it they are printed
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'branches.sh: %s\n' "$*" >&2; exit 2; }

has() { git show-ref --verify --quiet "refs/$1"; }

create() { # BRANCH, and where it starts
  if has "heads/$1"; then
    say "$1 is there"
  elif has "remotes/origin/$1"; then
    git branch --quiet --track "$1" "origin/$1"
    say "$1 taken from origin"
  else
    git branch --quiet --no-track "$1" "$2"
    say "$1 created from $2"
  fi
}

push() {
  git remote get-url origin >/dev/null 2>&1 || fail "there is no remote 'origin' to push to: git remote add origin <url>"
  if git ls-remote --exit-code --heads origin "$1" >/dev/null; then
    say "origin has $1"
  else
    git push --quiet --set-upstream origin "$1"
    say "pushed $1"
  fi
}

rules() { # main and dev change by pull requests that CI has passed; nobody rewrites or deletes them
  cat <<JSON
{
  "name": "$RULES",
  "target": "branch",
  "enforcement": "active",
  "conditions": {"ref_name": {"include": ["refs/heads/main", "refs/heads/dev"], "exclude": []}},
  "rules": [
    {"type": "deletion"},
    {"type": "non_fast_forward"},
    {"type": "pull_request", "parameters": {
      "required_approving_review_count": 0, "dismiss_stale_reviews_on_push": false,
      "require_code_owner_review": false, "require_last_push_approval": false,
      "required_review_thread_resolution": false}},
    {"type": "required_status_checks", "parameters": {
      "strict_required_status_checks_policy": false,
      "required_status_checks": [{"context": "Lint, tests, image"}]}}
  ]
}
JSON
}

protect() {
  local id
  command -v gh >/dev/null || fail "--protect needs 'gh': https://cli.github.com"
  id=$(gh api 'repos/{owner}/{repo}/rulesets' --jq ".[] | select(.name == \"$RULES\") | .id")
  if [[ $id ]]; then
    rules | gh api --silent --method PUT "repos/{owner}/{repo}/rulesets/$id" --input -
  else
    rules | gh api --silent --method POST 'repos/{owner}/{repo}/rulesets' --input -
  fi
  say "main and dev are protected"
}

main() {
  local branch push='' protect='' features=()
  while (($#)); do
    case $1 in
      -h | --help) usage; exit ;;
      --push) push=yes ;;
      --protect) protect=yes ;;
      feature/*) git check-ref-format --branch "$1" >/dev/null || fail "'$1' is no name for a branch"; features+=("$1") ;;
      *) fail "'$1' is neither an option nor feature/NAME; see --help" ;;
    esac
    shift
  done
  git rev-parse --verify --quiet HEAD >/dev/null || fail "run it in a Git repository that has a commit"
  ((${#features[@]})) || features=(feature/setup-ci-cd)

  create main HEAD
  create dev main
  for branch in "${features[@]}"; do create "$branch" dev; done
  if [[ $push ]]; then
    for branch in main dev "${features[@]}"; do push "$branch"; done
  fi
  if [[ $protect ]]; then
    protect
  else
    say "protection rules, which --protect applies:"
    rules
  fi
}

main "$@"
