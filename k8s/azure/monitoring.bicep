// Managed Prometheus: workspace, data collection from the cluster, the rules of components/monitoring, and read access.
@description('Part of every name.')
param name string

@description('Region of everything.')
param location string

@description('The cluster that sends its figures.')
param clusterName string

@description('Address of the cluster\'s OIDC issuer.')
param issuer string

// The same rules as in components/monitoring; any(), because not every rule has a `for`.
var groups = any(loadYamlContent('../components/monitoring/rules.yaml')).spec.groups
var signals = groups[0]
var alerts = groups[1]

resource cluster 'Microsoft.ContainerService/managedClusters@2026-04-01' existing = {
  name: clusterName
}

resource workspace 'Microsoft.Monitor/accounts@2023-04-03' = {
  name: '${name}-prometheus'
  location: location
}

resource endpoint 'Microsoft.Insights/dataCollectionEndpoints@2022-06-01' = {
  name: '${name}-prometheus'
  location: location
  kind: 'Linux'
  properties: {}
}

resource collection 'Microsoft.Insights/dataCollectionRules@2022-06-01' = {
  name: '${name}-prometheus'
  location: location
  kind: 'Linux'
  properties: {
    dataCollectionEndpointId: endpoint.id
    dataSources: {
      prometheusForwarder: [
        {
          name: 'prometheus'
          streams: [
            'Microsoft-PrometheusMetrics'
          ]
          labelIncludeFilter: {}
        }
      ]
    }
    destinations: {
      monitoringAccounts: [
        {
          name: 'workspace'
          accountResourceId: workspace.id
        }
      ]
    }
    dataFlows: [
      {
        streams: [
          'Microsoft-PrometheusMetrics'
        ]
        destinations: [
          'workspace'
        ]
      }
    ]
  }
}

resource association 'Microsoft.Insights/dataCollectionRuleAssociations@2022-06-01' = {
  name: '${name}-prometheus'
  scope: cluster
  properties: {
    dataCollectionRuleId: collection.id
  }
}

// Azure evaluates at most once a minute, so scaling reacts more slowly than with your own Prometheus
resource recording 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${name}-signals'
  location: location
  properties: {
    scopes: [
      workspace.id
      cluster.id
    ]
    clusterName: clusterName
    enabled: true
    interval: 'PT1M'
    rules: [for rule in signals.rules: {
      record: rule.record
      expression: rule.expr
    }]
  }
}

resource alerting 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {
  name: '${name}-alerts'
  location: location
  properties: {
    scopes: [
      workspace.id
      cluster.id
    ]
    clusterName: clusterName
    enabled: true
    interval: 'PT1M'
    rules: [for rule in alerts.rules: {
      alert: rule.alert
      expression: rule.expr
      for: 'PT${toUpper(rule.?for ?? '0m')}'
      severity: rule.labels.severity == 'critical' ? 1 : 3
      labels: rule.labels
      annotations: rule.annotations
    }]
  }
}

// identity with which KEDA queries
resource scaler 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-keda'
  location: location
}

resource kedaIsScaler 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: scaler
  name: 'keda'
  properties: {
    issuer: issuer
    subject: 'system:serviceaccount:kube-system:keda-operator'
    audiences: [
      'api://AzureADTokenExchange'
    ]
  }
}

// id of a built-in role, the same in every tenant
var monitoringDataReader = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'b0d8363b-8ddd-447d-831f-62ca05bff136')

resource mayAsk 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, scaler.id, monitoringDataReader)
  scope: workspace
  properties: {
    principalId: scaler.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: monitoringDataReader
  }
}

output queryEndpoint string = workspace.properties.metrics.prometheusQueryEndpoint
output scaler string = scaler.properties.clientId
