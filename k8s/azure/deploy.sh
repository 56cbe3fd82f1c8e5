#!/usr/bin/env bash
# Deploys emoserve on Azure: the service, and the page with HTTPS. docs/azure.md explains the steps.
set -euo pipefail
exec 3>&1  # a dry run prints here, even if standard output is captured

usage() {
    cat << 'USAGE'
usage: k8s/azure/deploy.sh COMMAND --group NAME [options]

  create    the resource group and what main.bicep describes; asks, as it costs money from then on
  deploy    build the images and apply the manifests; run again, it is an update
  status    nodes, pods, autoscaler, the page's address, and what is paid for
  destroy   delete the resource group and all that is in it; asks

options
  --group NAME       the resource group, also the cluster's name: 3 to 12 lower-case letters and digits
  --location REGION  where to create it (create; default: westeurope)
  --gpu-nodes N      the most pods with a GPU at a time; 0: CPUs only (create; default: 2)
  --host NAME        the page's host name (deploy)
  --email ADDRESS    where Let's Encrypt writes to (deploy)
  --tag TAG          of the images (deploy; default: the commit)
  --yes              don't ask
  --dry-run          print what would be run, run nothing
USAGE
}

# Exits with a status and prints one sentence with the remedy; 2 is wrong usage, 1 any other error.
fail() {
    echo "error: $2" >&2
    exit "$1"
}

run() {
    if [[ $dry_run ]]; then
        printf '%q ' "$@" >&3
        echo >&3
    else
        "$@"
    fi
}

# Prints the output of a command; in a dry run a placeholder.
ask_for() {
    local stand_in=$1
    shift
    run "$@" || return
    [[ ! $dry_run ]] || echo "$stand_in"
}

confirm() {
    [[ $yes || $dry_run ]] && return
    local answer=
    read -r -p "$1 " answer || true
    [[ $answer == "$2" ]] || fail 1 "stopped here, as the answer was not '$2'"
}

need() {
    [[ $dry_run ]] && return
    local tool
    for tool in "$@"; do
        command -v "$tool" > /dev/null || fail 1 "$tool is missing: install it (docs/azure.md says from where)"
    done
    az account show --output none 2> /dev/null || fail 1 "az is not logged in: run 'az login' first"
}

# Prints an output of main.bicep; in a dry run a placeholder.
output() {
    ask_for "${2-<$1>}" az deployment group show --resource-group "$group" --name emoserve \
        --query "properties.outputs.$1.value" --output tsv ||
        fail 1 "$group is not created, or not to the end: run 'k8s/azure/deploy.sh create --group $group' first"
}

credentials() {
    run az aks get-credentials --resource-group "$group" --name "$group" --overwrite-existing ||
        fail 1 "there is no cluster $group: run 'k8s/azure/deploy.sh create --group $group' first"
}

create() {
    need az
    local uploader
    uploader=$(ask_for '<your object id>' az ad signed-in-user show --query id --output tsv) ||
        fail 1 "az is logged in as no user: run 'az login' as one, as a role is assigned to it"
    local template=(--resource-group "$group" --name emoserve --template-file k8s/azure/main.bicep
        --parameters "name=$group" "gpuNodes=$gpu_nodes" "uploader=$uploader")
    run az group create --name "$group" --location "$location" --output none
    run az deployment group what-if "${template[@]}"
    echo "From now on this costs money: two nodes, a load balancer, a registry, and a GPU node while a pod needs one."
    echo "Prices: https://azure.microsoft.com/pricing/calculator. 'deploy.sh destroy --group $group' ends it."
    confirm "Create all this? Type yes:" yes
    run az deployment group create "${template[@]}" --output none
    echo "created; next: k8s/azure/deploy.sh deploy --group $group --host NAME --email ADDRESS"
}

deploy() {
    [[ $host ]] || fail 2 "deploy needs --host NAME, the page's host name, such as emotion.example.com"
    [[ $email ]] || fail 2 "deploy needs --email ADDRESS, whom Let's Encrypt writes to"
    [[ $dry_run || -f build/model_repository/export.json ]] ||
        fail 1 "there are no models to deploy: run 'make export' first (docs/azure.md)"
    need az kubectl
    local registry server storage prometheus scaler triton pods image assumed=gpu
    [[ $gpu_nodes != 0 ]] || assumed=cpu
    registry=$(output registry)
    server=$(output registryServer)
    storage=$(output storage)
    prometheus=$(output prometheus)
    scaler=$(output scaler)
    triton=$(output triton "$assumed")
    pods=$(output pods 2)

    run az storage blob upload-batch --account-name "$storage" --auth-mode login --source build/model_repository \
        --destination models --destination-path "$tag" --overwrite --output none
    for image in "$triton" models web; do
        run az acr build --registry "$registry" --image "emoserve-$image:$tag" --file "docker/$image.Dockerfile" .
    done

    credentials
    run kubectl apply --kustomize k8s/azure/addons
    run kubectl --namespace cert-manager rollout status deployment/cert-manager-webhook --timeout 5m
    generate
    run kubectl apply --kustomize "$generated"
    run kubectl --namespace emoserve rollout status deployment/triton --timeout 20m  # a node may have to be created first
    run kubectl --namespace emoserve rollout status deployment/web --timeout 5m
    run kubectl --namespace emoserve-gateway wait gateway/web --for "jsonpath={.status.addresses[0].value}" --timeout 5m
    echo "Point $host at this address; the certificate follows within minutes:"
    address
}

# Writes an overlay on top of ours with the values of this deployment (variables of `deploy`).
generate() {
    local overlay=aks
    [[ $triton == gpu ]] || overlay=aks-cpu
    mkdir -p "$generated"
    cat > "$generated/kustomization.yaml" << OVERLAY
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../overlays/$overlay
  - ../gateway
images:
  - { name: registry.example.com/emoserve-$triton, newName: "$server/emoserve-$triton", newTag: "$tag" }
  - { name: registry.example.com/emoserve-models, newName: "$server/emoserve-models", newTag: "$tag" }
  - { name: registry.example.com/emoserve-web, newName: "$server/emoserve-web", newTag: "$tag" }
patches:
  - target: { kind: Gateway, name: web }
    patch: |-
      - { op: replace, path: /spec/listeners/1/hostname, value: "$host" }
  - target: { kind: HTTPRoute, name: web }
    patch: |-
      - { op: replace, path: /spec/hostnames, value: ["$host"] }
  - target: { kind: ClusterIssuer, name: letsencrypt }
    patch: |-
      - { op: replace, path: /spec/acme/email, value: "$email" }
  - target: { kind: ScaledObject, name: triton }
    patch: |-
      - { op: replace, path: /spec/maxReplicaCount, value: $pods }
      - { op: replace, path: /spec/triggers/0/metadata/serverAddress, value: "$prometheus" }
      - { op: replace, path: /spec/triggers/1/metadata/serverAddress, value: "$prometheus" }
  - target: { kind: TriggerAuthentication, name: prometheus }
    patch: |-
      - { op: replace, path: /spec/podIdentity/identityId, value: "$scaler" }
OVERLAY
}

address() {
    run kubectl --namespace emoserve-gateway get gateway web --output "jsonpath={.status.addresses[0].value}{'\n'}"
}

status() {
    need az kubectl
    credentials
    run kubectl get nodes --label-columns agentpool
    run kubectl --namespace emoserve get pods,hpa,scaledobject
    run kubectl --namespace emoserve-gateway get gateway,certificate
    echo "Paid for: every node above, the load balancer, the registry, the storage and what Prometheus keeps."
}

destroy() {
    need az
    run az resource list --resource-group "$group" --output table ||
        fail 1 "there is no group $group: 'az group list --output table' shows yours"
    confirm "This deletes $group and all that is in it, exported models too. Type its name:" "$group"
    run az group delete --name "$group" --yes
}

command=${1-}
case $command in
    create | deploy | status | destroy) shift ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && fail 2 "'$command' is no command: give create, deploy, status or destroy" ;;
esac

group='' location=westeurope gpu_nodes=2 host='' email='' tag='' yes='' dry_run=''
while (($#)); do
    case $1 in
        --yes) yes=1 && shift && continue ;;
        --dry-run) dry_run=1 && shift && continue ;;
        --group | --location | --gpu-nodes | --host | --email | --tag) ;;
        *) fail 2 "'$1' is no option: see k8s/azure/deploy.sh --help" ;;
    esac
    (($# > 1)) || fail 2 "$1 needs a value: see k8s/azure/deploy.sh --help"
    case $1 in
        --group) group=$2 ;;
        --location) location=$2 ;;
        --gpu-nodes) gpu_nodes=$2 ;;
        --host) host=$2 ;;
        --email) email=$2 ;;
        --tag) tag=$2 ;;
    esac
    shift 2
done
[[ $group =~ ^[a-z][a-z0-9]{2,11}$ ]] ||
    fail 2 "--group is '$group': give 3 to 12 lower-case letters and digits, the first a letter"
[[ $gpu_nodes =~ ^[0-9]+$ ]] || fail 2 "--gpu-nodes is '$gpu_nodes': give a number"
[[ $host =~ ^[a-z0-9.-]*$ ]] || fail 2 "--host is '$host': give a host name, such as emotion.example.com"
[[ $email =~ ^[^[:space:]\"]*$ ]] || fail 2 "--email is '$email': give an address, such as ops@example.com"

cd "$(dirname "$0")/../.."
readonly generated=k8s/azure/.generated
[[ $tag ]] || tag=$(git describe --always --dirty 2> /dev/null || echo latest)
[[ $tag =~ ^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$ ]] || fail 2 "--tag is '$tag': give letters, digits, '.', '_' and '-'"
"$command"
