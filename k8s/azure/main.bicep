// Azure resources of emoserve: a cluster with autoscaled GPU nodes, a registry, storage for exported models, and managed
// Prometheus. deploy.sh creates them. Not run yet: written without a subscription.
targetScope = 'resourceGroup'

@description('Part of every name.')
@minLength(3)
@maxLength(12)
param name string

@description('Region of everything.')
param location string = resourceGroup().location

@description('Size of GPU nodes, one GPU each; its quota must be granted in the region.')
@allowed([
  'Standard_NC8as_T4_v3'
  'Standard_NC16as_T4_v3'
  'Standard_NC24ads_A100_v4'
  'Standard_NC40ads_H100_v5'
])
param gpuSize string = 'Standard_NC8as_T4_v3'

@description('The most pods with a GPU at a time, each on a node of its own; a rollout takes one more. 0: CPUs only.')
@minValue(0)
@maxValue(50)
param gpuNodes int = 2

@description('Size of the nodes for pods without a GPU.')
param cpuSize string = 'Standard_D4s_v5'

@description('The most CPU nodes at a time.')
@minValue(2)
@maxValue(50)
param cpuNodes int = 5

@description('Object id of who uploads exported models: the user that runs deploy.sh.')
param uploader string

var suffix = uniqueString(resourceGroup().id)
// ids of built-in roles, the same in every tenant
var acrPull = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '7f951dda-4ed3-4680-a7ca-43fe172d538d')
var blobDataContributor = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe')

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: '${name}${suffix}'
  location: location
  sku: {
    name: 'Standard'
  }
  properties: {
    adminUserEnabled: false
  }
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: '${take(name, 11)}${suffix}'
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: 14
    }
  }
}

// all deployed model repositories, by tag
resource models 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'models'
}

resource mayUpload 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, uploader, blobDataContributor)
  scope: storage
  properties: {
    principalId: uploader
    roleDefinitionId: blobDataContributor
  }
}

resource cluster 'Microsoft.ContainerService/managedClusters@2026-04-01' = {
  name: name
  location: location
  sku: {
    name: 'Base'
    tier: 'Standard'
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    dnsPrefix: name
    agentPoolProfiles: [
      {
        name: 'system'
        mode: 'System'
        vmSize: 'Standard_D2s_v5'
        count: 1
        enableAutoScaling: true
        minCount: 1
        maxCount: 3
      }
    ]
    // enforces the NetworkPolicies of the base
    networkProfile: {
      networkPlugin: 'azure'
      networkPluginMode: 'overlay'
      networkDataplane: 'cilium'
      networkPolicy: 'cilium'
    }
    oidcIssuerProfile: {
      enabled: true
    }
    securityProfile: {
      workloadIdentity: {
        enabled: true
      }
    }
    workloadAutoScalerProfile: {
      keda: {
        enabled: true
      }
    }
    ingressProfile: {
      gatewayAPI: {
        installation: 'Standard'
      }
      webAppRouting: {
        gatewayAPIImplementations: {
          appRoutingIstio: {
            mode: 'Enabled'
          }
        }
      }
    }
    azureMonitorProfile: {
      metrics: {
        enabled: true
        kubeStateMetrics: {}
      }
    }
    autoUpgradeProfile: {
      upgradeChannel: 'patch'
      nodeOSUpgradeChannel: 'NodeImage'
    }
  }
}

resource cpuPool 'Microsoft.ContainerService/managedClusters/agentPools@2026-04-01' = {
  parent: cluster
  name: 'cpu'
  properties: {
    mode: 'User'
    vmSize: cpuSize
    count: 1
    enableAutoScaling: true
    minCount: 1
    maxCount: cpuNodes
  }
}

resource gpuPool 'Microsoft.ContainerService/managedClusters/agentPools@2026-04-01' = if (gpuNodes > 0) {
  parent: cluster
  name: 'gpu'
  properties: {
    mode: 'User'
    vmSize: gpuSize
    count: 0
    enableAutoScaling: true
    minCount: 0
    maxCount: gpuNodes + 1
    // tells the autoscaler about the nodes before there is one, so that it knows which pods need them
    nodeLabels: {
      'nvidia.com/gpu.present': 'true'
    }
    nodeTaints: [
      'nvidia.com/gpu=present:NoSchedule'
    ]
  }
}

resource mayPull 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, cluster.id, acrPull)
  scope: registry
  properties: {
    principalId: cluster.properties.identityProfile.kubeletidentity.objectId
    principalType: 'ServicePrincipal'
    roleDefinitionId: acrPull
  }
}

module monitoring 'monitoring.bicep' = {
  name: 'monitoring'
  params: {
    name: name
    location: location
    clusterName: cluster.name
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
  }
}

// values that deploy.sh writes into the overlay
output triton string = gpuNodes > 0 ? 'gpu' : 'cpu'
output pods int = gpuNodes > 0 ? gpuNodes : cpuNodes - 1
output registry string = registry.name
output registryServer string = registry.properties.loginServer
output storage string = storage.name
output prometheus string = monitoring.outputs.queryEndpoint
output scaler string = monitoring.outputs.scaler
