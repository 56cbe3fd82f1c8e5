// Managed Prometheus: where figures go, that the cluster sends them there, and the rules of components/monitoring.
param name string
param location string
param clusterName string

// the very rules that the operator gets elsewhere
var groups = loadYamlContent('../components/monitoring/rules.yaml').spec.groups
var signals = groups[0]
var alerts = groups[1]

resource cluster 'Microsoft.ContainerService/managedClusters@2024-05-01' existing = {
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

// Azure evaluates once a minute at most, so scaling reacts later than with a Prometheus of your own
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
      for: contains(rule, 'for') ? 'PT${toUpper(rule.for)}' : 'PT0M'
      severity: rule.labels.severity == 'critical' ? 1 : 3
      labels: rule.labels
      annotations: rule.annotations
    }]
  }
}

output queryEndpoint string = workspace.properties.metrics.prometheusQueryEndpoint
