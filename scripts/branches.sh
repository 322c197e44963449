#!/usr/bin/env bash
# Creates missing branches of the Git workflow (see README.md) and their protection rules.
set -euo pipefail

readonly RULES=quai

usage() {
  cat <<'TEXT'
Usage: scripts/branches.sh [--push] [--protect] [feature/NAME ...]

Creates main, dev and the given feature branches (default: feature/setup-ci-cd) where they are
missing locally: as a tracking branch if origin has the branch, otherwise main at the current
commit, dev at main, and a feature branch at dev. Existing branches are not changed.

  --push     push missing branches to origin
  --protect  apply the protection rules with 'gh'; otherwise they are only printed
TEXT
}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'branches.sh: %s\n' "$*" >&2; exit 2; }

ref_exists() { git show-ref --verify --quiet "refs/$1"; }

create() { # BRANCH START
  if ref_exists "heads/$1"; then
    say "$1 already exists"
  elif ref_exists "remotes/origin/$1"; then
    git branch --quiet --track "$1" "origin/$1"
    say "$1 now tracks origin/$1"
  else
    git branch --quiet --no-track "$1" "$2"
    say "$1 created from $2"
  fi
}

push_if_missing() {
  git remote get-url origin >/dev/null 2>&1 || fail "no remote 'origin'; add it: git remote add origin <url>"
  if git ls-remote --exit-code origin "refs/heads/$1" >/dev/null; then
    say "$1 already exists on origin"
  else
    git push --quiet --set-upstream origin "$1"
    say "pushed $1"
  fi
}

rules() { # main and dev: only pull requests that pass CI; no force push, no deletion
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

apply_rules() {
  local id
  command -v gh >/dev/null || fail "--protect requires 'gh': https://cli.github.com"
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
      feature/*) git check-ref-format --branch "$1" >/dev/null || fail "'$1' is not a valid branch name"; features+=("$1") ;;
      *) fail "unknown argument '$1'; see --help" ;;
    esac
    shift
  done
  git rev-parse --verify --quiet HEAD >/dev/null || fail "run it in a Git repository with at least one commit"
  ((${#features[@]})) || features=(feature/setup-ci-cd)

  create main HEAD
  create dev main
  for branch in "${features[@]}"; do create "$branch" dev; done
  if [[ $push ]]; then
    for branch in main dev "${features[@]}"; do push_if_missing "$branch"; done
  fi
  if [[ $protect ]]; then
    apply_rules
  else
    say "protection rules (apply them with --protect):"
    rules
  fi
}

main "$@"
